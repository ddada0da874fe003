"""verify.html in a browser, for the tests that hold it against the other verifiers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import standalone
from tests.support.browser import VerifierPage, open_verifier


@pytest.fixture(scope="module")
def page() -> Iterator[VerifierPage]:
    with open_verifier(standalone.VERIFY_HTML) as opened:
        yield opened
