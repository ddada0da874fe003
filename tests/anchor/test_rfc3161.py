"""The anchor rfc3161 against a real authority (`openssl ts`): what it signs, what is refused, what is found by looking."""

from __future__ import annotations

import subprocess
from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support import time_authority
from tests.support.anchors import CLUSTER, Kept, answering, now_us, publication
from tests.support.bundle_maker import PaperBundle
from witnz.anchor.base import Published, Surroundings
from witnz.anchor.rfc3161 import BACKEND, Rfc3161Anchor
from witnz.config import AnchorConfig
from witnz.core.finding import FindingClass
from witnz.core.policy import parse_policy
from witnz.core.receipt import Receipt
from witnz.core.rfc3161 import read_time_stamp, with_sorted_certificates
from witnz.core.trust import parse_trust
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.authority import Authority
from witnz.errors import AnchorRefused, AnchorUnreachable
from witnz.verify.bundle import verify_bundle

PUBLICATION = publication()
DAYS = timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with Authority.start(tmp_path_factory.mktemp("authority")) as running:
        yield running


def anchor_at(url: str, root: Path | None = None, clock_us: int | None = None, **changed: str) -> Rfc3161Anchor:
    section = {"type": "rfc3161", "url": url, **({"root": str(root)} if root is not None else {}), **changed}
    clock = now_us if clock_us is None else (lambda: clock_us)
    return Rfc3161Anchor(AnchorConfig.model_validate(section), Surroundings(CLUSTER, clock))


def publish(anchor: Rfc3161Anchor) -> Receipt:
    answer = anchor.publish(PUBLICATION, Kept())
    assert isinstance(answer, Published)
    return answer.receipt


def serving(response: bytes) -> Any:
    """The address of an authority that gives everybody the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(response)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_a_checkpoint_is_stamped_and_anybody_with_the_root_can_check_it(authority: Authority) -> None:
    receipt = publish(anchor_at(authority.url, authority.root))
    assert (receipt.digest, receipt.size) == (PUBLICATION.digest, PUBLICATION.checkpoint.size)
    assert receipt.members["roots"] == [authority.root.read_text()]
    paper = PaperBundle()
    data, policy = paper.build(anchors=[dict(receipt.members)]), parse_policy(paper.parts["policy"])
    trust = parse_trust(authority.root.read_bytes())
    result = verify_bundle(data, policy, trust=trust)
    assert result.verdict is Verdict.VERIFIED
    assert "by CN=witnz demo time stamps (policy 1.2.3.4.1" in result.checks[-1].detail


def test_openssl_itself_agrees_with_the_text_of_the_note(authority: Authority, tmp_path: Path) -> None:
    receipt = publish(anchor_at(authority.url, authority.root))
    (tmp_path / "response").write_bytes(b64decode(receipt.members["response"]))
    (tmp_path / "note").write_text(PUBLICATION.text)
    command = ["openssl", "ts", "-verify", "-in", "response", "-data", "note", "-CAfile", str(authority.root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verification: OK" in done.stdout, done.stderr


def test_certificates_in_another_order_than_der_has_are_read_and_kept_as_they_came(tmp_path: Path) -> None:
    """Which of its two certificates sorts first is chance, so authorities are made until one sends them the wrong way."""
    for number in range(40):
        with Authority.start(tmp_path / str(number)) as authority:
            receipt = publish(anchor_at(authority.url, authority.root))
            response = b64decode(receipt.members["response"])
            if with_sorted_certificates(response) == response:
                continue
            assert anchor_at(authority.url, authority.root).look(receipt)[0].check.status is CheckStatus.OK
            return
    pytest.fail("openssl sorted the certificates of forty authorities")


def test_each_request_has_a_nonce_of_its_own(authority: Authority) -> None:
    nonces = {
        read_time_stamp(b64decode(publish(anchor_at(authority.url)).members["response"]), PUBLICATION.digest).nonce
        for _ in range(3)
    }
    assert len(nonces) == 3
    assert None not in nonces


def test_a_response_to_somebody_elses_request_is_refused(authority: Authority) -> None:
    old = b64decode(publish(anchor_at(authority.url)).members["response"])
    server = serving(old)
    with pytest.raises(AnchorRefused, match="not for this request"):
        anchor_at(url_of(server), authority.root).publish(PUBLICATION, Kept())
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"<html>", "expected a response in DER"),
        (b"", "expected a response in DER"),
        (time_authority.authority().response(PUBLICATION.digest, status="rejection"), "found status 2 no such policy"),
        (time_authority.authority().response(bytes(32)), "not over the digest"),
    ],
)
def test_what_is_no_time_stamp_of_the_digest_is_refused(response: bytes, reason: str) -> None:
    server = serving(response)
    with pytest.raises(AnchorRefused, match=reason):
        anchor_at(url_of(server)).publish(PUBLICATION, Kept())
    server.shutdown()
    server.server_close()


def test_an_answer_without_end_is_cut(authority: Authority) -> None:
    server = serving(b"0" * (1 << 20))
    with pytest.raises(AnchorUnreachable, match="more than 262144 bytes"):
        anchor_at(url_of(server)).publish(PUBLICATION, Kept())
    server.shutdown()
    server.server_close()


def test_another_authority_than_the_configured_one_is_refused(authority: Authority, tmp_path: Path) -> None:
    with Authority.start(tmp_path) as other, pytest.raises(AnchorRefused, match="not signed by an authority that is trusted"):
        anchor_at(authority.url, other.root).publish(PUBLICATION, Kept())


def test_an_authority_whose_certificate_has_expired_is_refused(tmp_path: Path) -> None:
    with Authority.start(tmp_path, valid=(-10 * DAYS, -1 * DAYS)) as expired:
        with pytest.raises(AnchorRefused, match="not signed by an authority that is trusted") as refused:
            anchor_at(expired.url, expired.root).publish(PUBLICATION, Kept())
        assert "outlived its certificate" in refused.value.hint
        unchecked = publish(anchor_at(expired.url))
        (look,) = anchor_at(expired.url, expired.root).look(unchecked)
        assert (look.check.status, look.finding) == (CheckStatus.FAIL, FindingClass.ANCHOR_ALTERED)


def test_a_clock_that_is_far_off_is_said_and_nothing_is_believed(authority: Authority) -> None:
    with pytest.raises(AnchorUnreachable, match="from this machine's time"):
        anchor_at(authority.url, authority.root, clock_us=now_us() - 3_600_000_000).publish(PUBLICATION, Kept())


@pytest.mark.parametrize(("status", "error"), [(401, AnchorRefused), (404, AnchorRefused), (503, AnchorUnreachable)])
def test_what_http_says_decides_whether_it_is_tried_again(status: int, error: type[Exception]) -> None:
    with answering(status, "error") as url, pytest.raises(error):
        anchor_at(url).publish(PUBLICATION, Kept())


def test_nobody_there_is_unreachable(authority: Authority, tmp_path: Path) -> None:
    with Authority.start(tmp_path) as other:
        url = other.url
    with pytest.raises(AnchorUnreachable, match="cannot be reached"):
        anchor_at(url).publish(PUBLICATION, Kept())


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_root_that_cannot_be_read_is_a_matter_of_the_configuration(
    authority: Authority, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "root.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AnchorRefused, match=r"anchors\[\].root"):
        anchor_at(authority.url, path).publish(PUBLICATION, Kept())


def test_looking_checks_the_receipt_against_the_configured_root(authority: Authority) -> None:
    anchor = anchor_at(authority.url, authority.root)
    receipt = publish(anchor)
    assert anchor.look(receipt)[0].check.status is CheckStatus.OK
    (unknown,) = anchor_at(authority.url).look(receipt)
    assert unknown.check.status is CheckStatus.SKIP
    assert "no root is configured" in unknown.check.detail
    other = Receipt("rfc3161", bytes(32), receipt.size, receipt.members)
    assert anchor.look(other)[0].finding is FindingClass.ANCHOR_ALTERED


def test_the_rehearsal_is_a_real_time_stamp(authority: Authority) -> None:
    assert anchor_at(authority.url, authority.root).rehearse()[0].status is CheckStatus.OK
    assert anchor_at(authority.url).rehearse()[0].status is CheckStatus.SKIP
    with answering(503, "error") as url:
        assert anchor_at(url, authority.root).rehearse()[0].status is CheckStatus.FAIL


def test_what_the_registry_says_of_it(authority: Authority) -> None:
    anchor = anchor_at(authority.url, authority.root)
    receipt = publish(anchor)
    host = authority.url.removesuffix("/tsr")
    assert anchor.place == f"time stamps of {host}"
    assert anchor.is_own(receipt)
    assert BACKEND.party(receipt) == f"the time-stamping authority at {host}"
    assert anchor.newest(CLUSTER, 0) is None
