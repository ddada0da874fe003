"""One bounded HTTP request: a deadline over all of it, no redirect followed, and no more of the answer read than is needed.

httpx's own timeouts are for each single read, so a server that sends a byte now and then could hold a worker for ever; here the
whole request is cancelled at its deadline.  Nothing that is returned or logged holds the address, which may be a secret.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from witnz import __version__
from witnz.alert.sink import DELIVERED, Outcome

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES: Final = 4096
MAX_RETRY_AFTER_S: Final = 3600.0
#: The receiver's answer to this one message; any other failure says that nothing gets through.
_REFUSALS: Final = frozenset({400, 413, 415, 422})


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` is 0 where there was none and ``error`` says why; ``body`` its first :data:`MAX_ANSWER_BYTES`."""

    status: int
    body: bytes = b""
    retry_after: str = ""
    error: str = ""

    def outcome(self, now_s: float) -> Outcome:
        """2xx is delivered; everything else is not, a redirect included."""
        if 200 <= self.status < 300:
            return DELIVERED
        error = self.error or f"HTTP status {self.status}"
        if 300 <= self.status < 400:
            error = f"HTTP status {self.status}: redirects are not followed"
        return Outcome(error, self.status in _REFUSALS, _retry_after_s(self.retry_after, now_s))


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """POST ``body`` to ``url`` and wait ``timeout_s`` at most for the answer.  Never raises for what the other side does."""
    return asyncio.run(_post(url, body, headers, timeout_s))


async def _post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    import httpx

    sent = {"User-Agent": f"witnz/{__version__}", "Accept-Encoding": "identity", "Content-Type": "application/json", **headers}
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, verify=_trusted()) as client,
            client.stream("POST", url, content=body, headers=sent) as response,
        ):
            start = await _start_of(response)
            return Answer(response.status_code, start, response.headers.get("Retry-After", ""))
    except TimeoutError:
        return Answer(0, error=f"no answer within {timeout_s:g} s")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        return Answer(0, error=type(error).__name__)  # their texts repeat parts of the URL
    except (httpx.HTTPError, OSError) as error:
        return Answer(0, error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:200])


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates to trust, SSL_CERT_FILE among them; reading them takes longer than a whole delivery."""
    import httpx

    return httpx.create_ssl_context()


async def _start_of(response: httpx.Response) -> bytes:
    """The beginning of the answer's body; the rest is never read."""
    start = b""
    async for chunk in response.aiter_raw():
        start += chunk[: MAX_ANSWER_BYTES - len(start)]
        if len(start) >= MAX_ANSWER_BYTES:
            break
    return start


def _retry_after_s(text: str, now_s: float) -> float:
    """Seconds of a Retry-After header (RFC 9110 10.2.3: a number or a date), an hour at most; 0 where it makes no sense."""
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        then_s = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
    return min(max(0.0, then_s - now_s), MAX_RETRY_AFTER_S)
