"""The signature of the PDF: PAdES by the report key, time-stamped where an authority is configured, over the attachment too.

The evidence is attached first, as an incremental update; then the file is certified (no changes allowed).  The bytes of the
unsigned report stay the beginning of the file.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from witnz.errors import Inconclusive
from witnz.report.key import ReportKey

FIELD: Final = "WitnzReport"
ATTACHMENT: Final = "evidence.json"

NO_ANSWER: Final = "report.time-stamp"
"""The code of the Inconclusive that a :data:`TimeStamp` raises where the authority gives no usable answer."""

TimeStamp = Callable[[bytes], bytes]
"""The DER TimeStampReq (RFC 3161) -> the DER TimeStampResp of an authority."""


def attach(pdf: bytes, evidence: bytes, created: int) -> bytes:
    """The PDF with ``evidence.json`` attached; ``created``: µs since the Unix epoch."""
    from pyhanko.pdf_utils import embed, generic
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

    when = datetime.datetime.fromtimestamp(created // 1_000_000, datetime.UTC)
    writer = IncrementalPdfFileWriter(BytesIO(pdf))
    stream = embed.EmbeddedFileObject.from_file_data(
        writer,
        data=evidence,
        mime_type="application/json",
        params=embed.EmbeddedFileParams(creation_date=when, modification_date=when),
    )
    spec = embed.FileSpec(
        file_spec_string=ATTACHMENT,
        file_name=ATTACHMENT,
        embedded_data=stream,
        description="The evidence that this report shows",
        af_relationship=generic.NameObject("/Source"),
    )
    embed.embed_file(writer, spec)
    out = BytesIO()
    writer.write(out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def sign_pdf(pdf: bytes, key: ReportKey, *, reason: str, time_stamp: TimeStamp | None = None) -> bytes:
    """The signed PDF.  Raises whatever ``time_stamp`` raises."""
    from asn1crypto import keys as asn1_keys
    from asn1crypto import x509 as asn1_x509
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign import fields, signers
    from pyhanko_certvalidator.registry import SimpleCertificateStore

    certificate = asn1_x509.Certificate.load(key.certificate.public_bytes(Encoding.DER))
    root = asn1_x509.Certificate.load(key.root.public_bytes(Encoding.DER))
    private = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    store = SimpleCertificateStore()  # type: ignore[no-untyped-call]
    store.register(root)
    signer = signers.SimpleSigner(
        signing_cert=certificate,
        signing_key=asn1_keys.PrivateKeyInfo.load(private),
        cert_registry=store,
    )
    about = signers.PdfSignatureMetadata(
        field_name=FIELD,
        md_algorithm="sha256",
        subfilter=fields.SigSeedSubFilter.PADES,
        reason=reason,
        certify=True,
        docmdp_permissions=fields.MDPPerm.NO_CHANGES,
    )
    stamper = None if time_stamp is None else _stamper(time_stamp)
    out = BytesIO()
    pdf_signer = signers.PdfSigner(about, signer, timestamper=stamper, new_field_spec=fields.SigFieldSpec(FIELD))
    pdf_signer.sign_pdf(IncrementalPdfFileWriter(BytesIO(pdf)), output=out)
    return out.getvalue()


def _stamper(time_stamp: TimeStamp) -> Any:
    from asn1crypto import tsp
    from pyhanko.sign.timestamps import TimeStamper

    class Authority(TimeStamper):
        """Asks through the caller's function."""

        async def async_request_tsa_response(self, req: Any) -> Any:
            try:
                return tsp.TimeStampResp.load(time_stamp(req.dump()))
            except (ValueError, TypeError) as error:
                raise Inconclusive(f"the authority's answer cannot be read: {error}", code=NO_ANSWER) from None

    return Authority()  # type: ignore[no-untyped-call]
