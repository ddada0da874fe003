"""One JSON-RPC endpoint of an EVM chain: the few questions that an anchor asks, answers bounded and checked for their form.

web3 knows the dialects; its own HTTP client knows no size limit, so requests go through :mod:`witnz.anchor.http`.  What an
endpoint *says* is not believed here: :mod:`witnz.core.evm` proves it, and a second endpoint is asked where one is configured.

Errors of JSON-RPC have no reliable codes.  They are told apart by their text where that is known, and in doubt the state is
asked again, never the error believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from witnz.anchor.http import host_of, request
from witnz.core.evm.block import header_from_json, transaction_from_json
from witnz.errors import AnchorRefused, AnchorUnreachable, FormatError, ProofError

if TYPE_CHECKING:
    from web3 import Web3

MAX_ANSWER_BYTES: Final = 64 << 20
"""Of a block with all its transactions; the largest on mainnet are below a tenth of it."""
MAX_TRANSACTIONS: Final = 20_000


class Sent(Enum):
    """What became of a transaction that was sent."""

    ACCEPTED = "accepted, or known already"
    NONCE_USED = "its nonce is used already"
    UNDERPRICED = "another with this nonce pays as much"
    FEE_TOO_LOW = "its fee is below what blocks ask now"
    NO_FUNDS = "the account cannot pay for it"
    UNCLEAR = "refused in other words"


_SENT: Final = (
    ("already known", Sent.ACCEPTED),
    ("already imported", Sent.ACCEPTED),
    ("known transaction", Sent.ACCEPTED),
    ("nonce too low", Sent.NONCE_USED),
    ("nonce is too low", Sent.NONCE_USED),
    ("underpriced", Sent.UNDERPRICED),
    ("fee too low", Sent.UNDERPRICED),
    ("less than block base fee", Sent.FEE_TOO_LOW),
    ("insufficient funds", Sent.NO_FUNDS),
)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where the endpoint says that a transaction is."""

    block_hash: bytes
    block_number: int
    index: int
    gas_used: int


@dataclass(frozen=True, slots=True)
class Fees:
    """In wei per unit of gas: what the next block asks at least, None on chains without EIP-1559, and what tips are paid."""

    base: int | None
    tip: int


class Endpoint:
    """One address.  Every method raises AnchorUnreachable where there is no usable answer, AnchorRefused for credentials."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self.host = host_of(url)

    @cached_property
    def _web3(self) -> Web3:
        from web3 import Web3

        return Web3(_provider(self._url, self._timeout_s))

    def chain_id(self) -> int:
        return self._integer("eth_chainId")

    def height(self) -> int:
        return self._integer("eth_blockNumber")

    def balance(self, address: str) -> int:
        """In wei."""
        return self._integer("eth_getBalance", address, "latest")

    def nonce(self, address: str) -> int:
        """The number of the account's transactions in the chain: the nonce of the next one."""
        return self._integer("eth_getTransactionCount", address, "latest")

    def fees(self) -> Fees:
        block = self._object("eth_getBlockByNumber", "latest", False)
        if block.get("baseFeePerGas") is None:
            return Fees(None, self._integer("eth_gasPrice"))
        try:
            tip = self._integer("eth_maxPriorityFeePerGas")
        except AnchorUnreachable:  # not every endpoint offers it
            tip = 1_000_000_000
        return Fees(_quantity(block["baseFeePerGas"], self.host), tip)

    def gas_for(self, address: str, data: bytes) -> int:
        """What a transaction of ``data`` to oneself will use, as the endpoint estimates."""
        return self._integer("eth_estimateGas", {"from": address, "to": address, "value": "0x0", "data": f"0x{data.hex()}"})

    def send(self, raw: bytes) -> tuple[Sent, str]:
        """Send a signed transaction; what became of it, and the endpoint's words."""
        answer = self._answer("eth_sendRawTransaction", f"0x{raw.hex()}")
        if "error" not in answer:
            return Sent.ACCEPTED, ""
        said = _message(answer)
        return next((kind for words, kind in _SENT if words in said.lower()), Sent.UNCLEAR), said

    def inclusion(self, transaction_hash: bytes) -> Inclusion | None:
        """Where the transaction is in the chain now; None where it is not."""
        found = self._result("eth_getTransactionReceipt", f"0x{transaction_hash.hex()}")
        if found is None:
            return None
        if not isinstance(found, Mapping) or found.get("blockHash") is None:
            return None
        return Inclusion(
            _bytes(found.get("blockHash"), self.host),
            _quantity(found.get("blockNumber"), self.host),
            _quantity(found.get("transactionIndex"), self.host),
            _quantity(found.get("gasUsed"), self.host),
        )

    def is_known(self, transaction_hash: bytes) -> bool:
        """Whether the endpoint still has the transaction, in the chain or waiting."""
        return self._result("eth_getTransactionByHash", f"0x{transaction_hash.hex()}") is not None

    def block_hash(self, number: int) -> bytes | None:
        """The hash of the block at a height now; None beyond the newest."""
        block = self._result("eth_getBlockByNumber", hex(number), False)
        return _bytes(block.get("hash"), self.host) if isinstance(block, Mapping) else None

    def block(self, block_hash: bytes) -> tuple[bytes, list[bytes]]:
        """A block's header and all its transactions, as they are hashed.

        Raises ProofError where they cannot be made out of what the endpoint says.
        """
        block = self._object("eth_getBlockByHash", f"0x{block_hash.hex()}", True)
        listed = block.get("transactions")
        if not isinstance(listed, list) or len(listed) > MAX_TRANSACTIONS:
            raise AnchorUnreachable(f"{self.host}: expected a block with its transactions")
        try:
            return header_from_json(block), [self._raw(one, block_hash, place) for place, one in enumerate(listed)]
        except (FormatError, KeyError, TypeError) as error:
            raise ProofError(f"{self.host}: block {block_hash.hex()}: {error}") from None

    def _raw(self, transaction: Mapping[str, Any], block_hash: bytes, place: int) -> bytes:
        """A transaction's bytes; of a type that is not known, as the endpoint gives them, which the trie's root then proves."""
        try:
            return transaction_from_json(transaction)
        except ProofError:
            raw = self._result("eth_getRawTransactionByBlockHashAndIndex", f"0x{block_hash.hex()}", hex(place))
            if raw is None:
                raise
            return _bytes(raw, self.host)

    # -- answers --------------------------------------------------------------------------------------------------------------

    def _answer(self, method: str, *params: Any) -> Mapping[str, Any]:
        from web3.types import RPCEndpoint

        try:
            answer: Any = self._web3.provider.make_request(RPCEndpoint(method), list(params))
        except ValueError:
            raise AnchorUnreachable(f"{self.host}: {method}: expected JSON", hint="is this a JSON-RPC endpoint?") from None
        if not isinstance(answer, Mapping) or ("error" not in answer and "result" not in answer):
            raise AnchorUnreachable(f"{self.host}: {method}: expected a JSON-RPC answer", hint="is this a JSON-RPC endpoint?")
        return answer

    def _result(self, method: str, *params: Any) -> Any:
        answer = self._answer(method, *params)
        if "error" in answer:
            raise AnchorUnreachable(f"{self.host}: {method}: {_message(answer)}", hint="it is tried again")
        return answer["result"]

    def _integer(self, method: str, *params: Any) -> int:
        return _quantity(self._result(method, *params), f"{self.host}: {method}")

    def _object(self, method: str, *params: Any) -> Mapping[str, Any]:
        found = self._result(method, *params)
        if not isinstance(found, Mapping):
            raise AnchorUnreachable(f"{self.host}: {method}: expected an object", hint="it is tried again")
        return found


def _provider(url: str, timeout_s: float) -> Any:
    from web3.providers.base import JSONBaseProvider
    from web3.types import RPCEndpoint, RPCResponse

    class BoundedProvider(JSONBaseProvider):
        """web3's JSON-RPC over our bounded requests."""

        def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
            body = self.encode_rpc_request(method, params)
            headers = {"Content-Type": "application/json"}
            status, answer = request(url, body, headers=headers, timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES)
            if status != 200 and not answer.lstrip().startswith(b"{"):
                raise AnchorRefused(f"{host_of(url)} answers with HTTP {status}", hint="is this a JSON-RPC endpoint?")
            return self.decode_rpc_response(answer)

    return BoundedProvider()


def _message(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    said = error.get("message") if isinstance(error, Mapping) else error
    return ascii(str(said)[:200])[1:-1]


def _quantity(value: Any, host: str) -> int:
    try:
        if not isinstance(value, str) or not value.startswith("0x") or len(value) > 66:
            raise ValueError
        return int(value[2:], 16)
    except ValueError:
        raise AnchorUnreachable(f"{host}: expected a quantity, found {ascii(value)[:60]}") from None


def _bytes(value: Any, host: str) -> bytes:
    try:
        if not isinstance(value, str) or not value.startswith("0x"):
            raise ValueError
        return bytes.fromhex(value[2:])
    except ValueError:
        raise AnchorUnreachable(f"{host}: expected bytes in hex, found {ascii(value)[:60]}") from None
