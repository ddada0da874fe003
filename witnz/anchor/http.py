"""One bounded HTTP request to an anchor's service: a deadline over all of it, a size limit, no redirect followed.

httpx's own timeouts are for each single read, so a server that sends a byte now and then could hold a worker for ever; here the
whole request is cancelled at its deadline.  An address may be a capability, so errors name its host and nothing else of it.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from witnz import __version__
from witnz.errors import AnchorRefused, AnchorUnreachable

if TYPE_CHECKING:
    import httpx

_CREDENTIALS: Final = frozenset({401, 403, 407})


def host_of(url: str) -> str:
    """What may be shown of an address: scheme, host and port."""
    parts = urlsplit(url)
    host = parts.hostname or "?"
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def request(
    url: str,
    body: bytes | None,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    max_bytes: int,
    ca: Path | None = None,
    credentials: tuple[str, str] | None = None,
) -> tuple[int, bytes]:
    """POST ``body``, or GET where it is None; the status and the whole answer.

    ``credentials``: user and password for HTTP authentication, or those in the address.  Raises AnchorUnreachable for whatever
    goes wrong on the way, a server's error and an answer over ``max_bytes``; AnchorRefused for credentials that do not suffice,
    a certificate that is not trusted, and a redirect.
    """
    status, answer = asyncio.run(_request(url, body, headers, timeout_s, max_bytes, ca, credentials))
    if status in _CREDENTIALS:
        raise AnchorRefused(
            f"{host_of(url)} refuses these credentials (HTTP {status})", hint="correct the address or the key in it"
        )
    if 300 <= status < 400:
        raise AnchorRefused(
            f"{host_of(url)} redirects (HTTP {status}), which is not followed", hint="configure the final address"
        )
    if status == 429 or status >= 500:
        raise AnchorUnreachable(f"{host_of(url)} is busy or broken (HTTP {status})", hint="it is tried again")
    return status, answer


async def _request(
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
    max_bytes: int,
    ca: Path | None,
    credentials: tuple[str, str] | None,
) -> tuple[int, bytes]:
    import httpx

    sent = {"User-Agent": f"witnz/{__version__}", "Accept-Encoding": "identity", **headers}
    host = host_of(url)
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, verify=_trusted(ca), auth=credentials) as client,
            client.stream("GET" if body is None else "POST", url, content=body, headers=sent) as response,
        ):
            return response.status_code, await _whole(response, max_bytes, host)
    except TimeoutError:
        raise AnchorUnreachable(f"{host} did not answer within {timeout_s:g} s", hint="it is tried again") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        if isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
            raise AnchorRefused(
                f"{host} has a certificate that is not trusted here", hint="name the certificates that may sign it (ca)"
            ) from None
        raise AnchorUnreachable(f"{host} cannot be reached: {type(error).__name__}", hint="it is tried again") from None


async def _whole(response: httpx.Response, max_bytes: int, host: str) -> bytes:
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) > max_bytes:
            raise AnchorUnreachable(f"{host} answers with more than {max_bytes} bytes", hint="is this the right address?")
    return bytes(found)


@functools.cache
def _trusted(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise AnchorRefused(f"{ca}: {error.strerror or error}", hint="name a readable PEM file (ca)") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
