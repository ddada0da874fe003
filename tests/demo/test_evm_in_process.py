"""The chain that stands in where there is no anvil: what an anchor publishes there is proven like anything else."""

from __future__ import annotations

import secrets
from typing import Any

from tests.support.anchors import Kept, publication
from tests.support.chains import address_of, evm_anchor
from tests.support.node import wait
from witnz.anchor.base import Published
from witnz.core.evm.receipt import check_evm_receipt
from witnz.core.receipt import Receipt
from witnz.core.verdict import CheckStatus
from witnz.demo.evm_in_process import InProcessChain


def test_a_checkpoint_is_anchored_on_a_chain_within_the_process() -> None:
    chain: Any = InProcessChain()
    try:
        key, memory = secrets.token_hex(32), Kept()
        chain.fund(address_of(key))
        anchor = evm_anchor(chain, key, confirmations=1)

        def published() -> Receipt | None:
            answer = anchor.publish(publication(), memory)
            return answer.receipt if isinstance(answer, Published) else None

        receipt = wait(published, "the receipt")
        assert check_evm_receipt(receipt.members).sender.hex() == address_of(key)[2:].lower()
        assert [look.check.status for look in anchor.look(receipt)] == [CheckStatus.OK]
        assert "error" in chain.answered("eth_sendRawTransaction", ["0x02c0"])
        assert "not offered" in str(chain.answered("eth_getLogs", [{}]))
    finally:
        chain.stop()
