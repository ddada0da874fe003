"""F03: a time stamp over another digest, from an authority that nobody trusts, or made with an expired certificate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.anchored import anchor_now, bundle_of, publication_of, with_receipts
from tests.support.anchors import CLUSTER, Kept, now_us, publication
from witnz.anchor.base import Publication, Published, Surroundings
from witnz.anchor.rfc3161 import Rfc3161Anchor
from witnz.config import AnchorConfig
from witnz.core.policy import parse_policy
from witnz.core.trust import parse_trust
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.authority import Authority
from witnz.node.setup import policy_of
from witnz.verify.bundle import verify_bundle

TABLE = "public.ledger"


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with Authority.start(tmp_path / "authority") as running:
        yield running


def stamped_by(authority: Authority, publication: Publication) -> dict[str, Any]:
    """The members of the receipt that another authority gives for a publication."""
    section = AnchorConfig.model_validate({"type": "rfc3161", "url": authority.url})
    answer = Rfc3161Anchor(section, Surroundings(CLUSTER, now_us)).publish(publication, Kept())
    assert isinstance(answer, Published)
    return dict(answer.receipt.members)


def test_only_the_digest_under_the_trusted_authority_counts(own_scene, authority: Authority, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    section = {"type": "rfc3161", "url": authority.url, "root": str(authority.root), "every": "1h"}
    scene = own_scene({"name": TABLE, "mode": "append_only"}, anchors=[section])
    receipt = anchor_now(scene, "rfc3161")
    kept, policy = bundle_of(scene), parse_policy(policy_of(scene.node.data))
    trust = parse_trust(authority.root.read_bytes())
    assert verify_bundle(kept, policy, trust=trust).verdict is Verdict.VERIFIED
    assert {looked.status for looked in scene.node.anchoring.check(everything=True)} == {CheckStatus.OK}

    def refused(receipt: dict[str, Any]) -> str:
        result = verify_bundle(with_receipts(kept, [receipt]), policy, trust=trust)
        assert result.exit_code == 3
        (reason,) = [check.detail for check in result.checks if check.status is CheckStatus.FAIL]
        return reason

    own, published = dict(receipt.members), publication_of(kept, receipt)
    another = stamped_by(authority, publication())
    assert "not over the digest" in refused({**own, "response": another["response"]})
    with Authority.start(tmp_path / "untrusted") as untrusted:
        foreign = stamped_by(untrusted, published)
        assert "not signed by an authority that is trusted here" in refused(foreign)
        assert "not signed by" in refused({**foreign, "roots": own["roots"]}), "another root beside it helps nobody"
    days = timedelta(days=1)
    with Authority.start(tmp_path / "expired", valid=(-9 * days, -1 * days)) as expired:
        late = with_receipts(kept, [stamped_by(expired, published)])
        result = verify_bundle(late, policy, trust=parse_trust(expired.root.read_bytes()))
        assert result.exit_code == 3, "its own root does not help a certificate that had expired"
    scene.assert_bystanders_verified()
