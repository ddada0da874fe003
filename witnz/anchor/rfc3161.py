"""Anchor ``rfc3161``: a time-stamping authority signs the digest and the time.

One request, one response, nothing to wait for and nothing to remember.  The response is checked before it is believed: granted,
over our digest, with our nonce, and, where the configuration names the authority's root, signed by a certificate that leads to
it.  The root goes into the receipt, so that whoever verifies needs only its digest from elsewhere.

A time stamp proves existence at a time.  It does not prove that there was no other checkpoint: an authority stamps whatever it
is given and keeps no list.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from witnz.anchor.base import Look, Memory, Pending, Publication, Published, Surroundings, fail, ok, skip
from witnz.anchor.http import host_of, request
from witnz.config import AnchorConfig
from witnz.core import rfc3161
from witnz.core.finding import FindingClass
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.timestamp import format_time
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import AnchorError, AnchorRefused, AnchorUnreachable, ConfigError, ProofError

MAX_RESPONSE_BYTES: Final = 256 * 1024
MAX_CLOCK_DIFFERENCE_S: Final = 300


class Rfc3161Anchor:
    """One authority."""

    type = "rfc3161"

    def __init__(self, config: AnchorConfig, surroundings: Surroundings) -> None:
        assert config.url is not None
        self._config, self._clock = config, surroundings.clock
        self._url = config.url.reveal()

    @property
    def place(self) -> str:
        return f"time stamps of {host_of(self._url)}"

    @cached_property
    def _roots(self) -> list[x509.Certificate]:
        """The configured root; none where none is named.  Raises AnchorRefused where it cannot be read."""
        path = self._config.root
        if path is None:
            return []
        try:
            return x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it holds no PEM certificate"
            raise AnchorRefused(f"anchors[].root: {path}: {reason}", hint="name the authority's root certificate") from None

    def is_own(self, receipt: Receipt) -> bool:
        return bool(receipt.members["url"] == host_of(self._url))

    # -- publishing -----------------------------------------------------------------------------------------------------------

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        """Have the digest stamped; asked again after a crash, stamped again, which costs the authority a signature."""
        response = self._stamp(publication.text.encode())
        roots = [root.public_bytes(Encoding.PEM).decode() for root in self._roots]
        members = {"url": host_of(self._url), "response": b64encode(response).decode(), "roots": roots}
        own = {"type": "rfc3161", "digest": publication.digest.hex(), "size": publication.checkpoint.size}
        return Published(parse_receipt({**own, **members}))

    def _stamp(self, text: bytes) -> bytes:
        """A response over the SHA-256 of ``text``, checked.  Raises AnchorUnreachable, AnchorRefused."""
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

        builder = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256)
        query = builder.nonce(nonce=True).cert_request(cert_request=True).build()
        status, response = request(
            self._url,
            query.as_bytes(),
            headers={"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"},
            timeout_s=self._config.timeout_s,
            max_bytes=MAX_RESPONSE_BYTES,
            ca=self._config.ca,
            credentials=self._credentials,
        )
        if status != 200:
            raise AnchorRefused(
                f"{host_of(self._url)} answers with HTTP {status}", hint="is this the address of a time-stamping authority?"
            )
        self._check(response, sha256(text).digest(), query.nonce)
        return response

    @property
    def _credentials(self) -> tuple[str, str] | None:
        if self._config.user is None:
            return None
        try:
            return self._config.user, self._config.password.reveal() if self._config.password is not None else ""
        except ConfigError as error:
            raise AnchorRefused(error.message, hint=error.hint) from None

    def _check(self, response: bytes, digest: bytes, nonce: int | None) -> None:
        """Refuse what no verifier would believe, while it can still be noticed."""
        host = host_of(self._url)
        try:
            stamp = rfc3161.read_time_stamp(response, digest)
        except ProofError as error:
            raise AnchorRefused(f"{host}: {error.message}", hint="ask who runs the authority, or use another one") from None
        if stamp.nonce != nonce:
            raise AnchorRefused(f"{host}: the time stamp is not for this request (nonce)", hint="use another authority")
        if self._roots:
            try:
                rfc3161.check_time_stamp(response, digest, self._roots)
            except ProofError as error:
                hint = "has the authority changed or outlived its certificate? configure its present root (root)"
                raise AnchorRefused(f"{host}: {error.message}", hint=hint) from None
        difference = abs(stamp.time_s - self._clock() // 1_000_000)
        if difference > MAX_CLOCK_DIFFERENCE_S:
            raise AnchorUnreachable(
                f"{host} stamps {format_time(stamp.time_s * 1_000_000)}, {difference} s from this machine's time",
                hint="one of the two clocks is wrong; correct it",
            )

    # -- looking --------------------------------------------------------------------------------------------------------------

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """A time stamp needs nobody to be asked: it is checked against the configured root, or the one that it brought."""
        response = b64decode(receipt.members["response"])
        try:
            roots = self._roots
            if not roots:
                stamp = rfc3161.read_time_stamp(response, receipt.digest)
                told = f"stamped {format_time(stamp.time_s * 1_000_000)} by {stamp.authority}, as it says itself"
                return [skip("token", f"{told}; no root is configured to check it against")]
            stamp = rfc3161.check_time_stamp(response, receipt.digest, roots)
        except AnchorRefused as error:
            return [skip("token", error.message)]
        except ProofError as error:
            return [fail("token", error.message, FindingClass.ANCHOR_ALTERED)]
        return [ok("token", f"stamped {format_time(stamp.time_s * 1_000_000)} by {stamp.authority}, under the configured root")]

    def newest(self, origin: str, above: int) -> str | None:
        """An authority keeps no list."""
        return None

    def rehearse(self) -> Sequence[Check]:
        """The real thing, over a digest of nothing: an authority keeps nothing."""
        try:
            response = self._stamp(secrets.token_bytes(32))
        except AnchorError as error:
            return [Check("anchor.rfc3161", CheckStatus.FAIL, f"{error.message}. {error.hint}".strip())]
        found = f"{host_of(self._url)} stamped {len(response)} bytes"
        if not self._roots:
            detail = f"{found}; no root is configured, so its signature was not checked"
            return [Check("anchor.rfc3161", CheckStatus.SKIP, detail)]
        return [Check("anchor.rfc3161", CheckStatus.OK, f"{found}, under the configured root")]


class _Rfc3161:
    """What the registry knows of the type."""

    type = "rfc3161"
    about = "a time-stamping authority: its signature that the checkpoint existed at a time; provable offline"
    extra = "tsa"
    latency = "one request: below a second"

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> Rfc3161Anchor:
        return Rfc3161Anchor(config, surroundings)

    def implied(self, receipt: Receipt) -> AnchorConfig | None:
        """What can be checked needs no connection, and what a receipt says about its root nobody need believe."""
        return None

    def party(self, receipt: Receipt) -> str:
        return f"the time-stamping authority at {receipt.members['url']}"


BACKEND: Final = _Rfc3161()
