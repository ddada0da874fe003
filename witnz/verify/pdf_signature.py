"""The signature inside report.pdf: PAdES by the report key that the journal names, over the whole file, evidence attached.

Needs pyHanko (the extra ``report``); without it the check does not apply and says so.  The certificate is believed for nothing
but its key: whether that is the report key, the journal says (formats.md 8).
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from io import BytesIO
from typing import Any, Final

from witnz.core.verdict import Check, CheckStatus
from witnz.verify.bundle_rows import fail, ok

ATTACHMENT: Final = "evidence.json"
MAX_PDF_BYTES: Final = 64 << 20


def check_pdf(pdf: bytes | None, evidence: bytes, public: bytes | None, name: str) -> Check:
    """One check named ``name``.  ``public``: the DER SubjectPublicKeyInfo of the report key, None where none is known."""
    if pdf is None:
        return fail(name, "there is no report.pdf")
    if find_spec("pyhanko") is None:
        how = "pip install 'witnz[report]', or pdfsig; its digest is among those signed"
        return Check(name, CheckStatus.NOT_APPLICABLE, f"the signature inside report.pdf: not checked ({how})")
    if public is None:
        return fail(name, "there is no report key to check the signature inside report.pdf with")
    if len(pdf) > MAX_PDF_BYTES:
        return fail(name, f"expected at most {MAX_PDF_BYTES} bytes, found {len(pdf)}")
    problem, detail = _look(pdf, evidence, public)
    return ok(name, detail) if problem is None else fail(name, problem)


def _look(pdf: bytes, evidence: bytes, public: bytes) -> tuple[str | None, str]:
    """What is wrong, or None; and what was found."""
    from pyhanko.pdf_utils.misc import PdfError
    from pyhanko.pdf_utils.reader import PdfFileReader

    logging.getLogger("pyhanko").setLevel(logging.CRITICAL)  # a finding is told by the check, not on stderr
    try:
        reader = PdfFileReader(BytesIO(pdf), strict=True)
        signatures = reader.embedded_regular_signatures
        if len(signatures) != 1:
            return f"expected one signature inside report.pdf, found {len(signatures)}", ""
        problem = _signature_problem(signatures[0], public)
        if problem is not None:
            return problem, ""
        if _attached(reader) != [evidence]:
            return "what is attached to report.pdf is not evidence.json", ""
    except (PdfError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        return f"report.pdf cannot be read: {type(error).__name__}: {str(error)[:120]}", ""
    return None, "report.pdf is signed whole by the report key (PAdES), and evidence.json is attached to it"


def _signature_problem(signature: Any, public: bytes) -> str | None:
    from pyhanko.sign.general import SigningError
    from pyhanko.sign.validation import validate_pdf_signature
    from pyhanko.sign.validation.errors import SignatureValidationError
    from pyhanko.sign.validation.status import SignatureCoverageLevel
    from pyhanko_certvalidator import ValidationContext

    if signature.signer_cert.public_key.dump() != public:
        return "report.pdf is signed with another key than the report key of the journal"
    # No root is trusted, the system's own neither: whose key it is, the journal says.
    nobody = ValidationContext(trust_roots=[], allow_fetching=False)
    try:
        status = validate_pdf_signature(signature, signer_validation_context=nobody)
    except (SignatureValidationError, SigningError) as error:
        return f"the signature inside report.pdf: {str(error)[:120]}"
    if not (status.intact and status.valid):
        return "report.pdf is not what was signed"
    if status.coverage is not SignatureCoverageLevel.ENTIRE_FILE:
        return "the signature inside report.pdf does not cover the whole file"
    return None


def _attached(reader: Any) -> list[bytes]:
    """The files attached under the name of the evidence."""
    names = reader.root["/Names"]["/EmbeddedFiles"]["/Names"]
    found = []
    for place in range(0, len(names), 2):
        if str(names[place]) == ATTACHMENT:
            found.append(names[place + 1]["/EF"]["/F"].data)
    return found
