#!/usr/bin/env python3
"""Check what witnz hands out, on a computer of your own: a bundle (*.witnz.json), or a whole report package (its folder).

    python3 verify.py --policy policy.txt bundle.witnz.json          python3 verify.py --policy policy.txt the-package/

Needs Python 3.9 or later and nothing else; opens no connection.  The policy is the file with the keys that *you* trust: get it
from the operator through another channel than the evidence; keys inside the evidence are never believed.
Exit code: 0 VERIFIED, 3 TAMPERED, 4 INCONCLUSIVE (something asked for could not be checked), 2 not such a file at all.

Written from public specifications alone (RFC 9162, 8785, 8032; FIPS 186-5; DSSE; c2sp.org signed-note, tlog-checkpoint,
tlog-cosignature, tlog-policy; the Ethereum yellow paper) and the formats of witnz; it shares no code with witnz itself.
"""

from __future__ import annotations

# fmt: off
import argparse
import base64
import json
import re
import sys
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any, Callable, Sequence

MAX_BYTES, MAX_DEPTH, MAX_INT = 64 << 20, 32, (1 << 53) - 1
Say = Callable[[str, str, str], None]  # (status, name, detail); status: ok, fail, skip (asked for, so it spoils), n/a (does not)

class Refused(Exception):
    """The file is not of its format: exit code 2."""

def need(holds: object, path: str, expected: str) -> None:
    if not holds:
        raise Refused(f"{path}: expected {expected}")

# -- JSON in its one spelling (RFC 8785) --------------------------------------------------------------------------------------

def canonical(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        need("\0" not in value, "JSON", "no U+0000")
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        need(isinstance(value, int) and abs(value) <= MAX_INT, "JSON", "integers within 2^53 - 1")
        return str(value)
    need(depth < MAX_DEPTH, "JSON", f"brackets that nest at most {MAX_DEPTH} deep")
    if isinstance(value, list):
        return "[" + ",".join([canonical(item, depth + 1) for item in value]) + "]"
    members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
    return "{" + ",".join([canonical(name) + ":" + canonical(item, depth + 1) for name, item in members]) + "}"

def parse_json(data: bytes, path: str, most: int = MAX_BYTES, end: str = "\n") -> Any:
    """The value of a document in canonical spelling (so: no key twice), ``end`` after it."""
    need(len(data) <= most, path, f"at most {most} bytes")
    try:  # integers longer than any allowed are cut short, not converted: that takes quadratic time
        value = json.loads(data.decode("utf-8"), parse_int=lambda digits: int(digits[:18]))
        need((canonical(value) + end).encode("utf-8") == data, path, "canonical JSON (RFC 8785), each key once")
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: expected JSON in UTF-8: {str(error)[:80]}") from None
    return value

def unb64(text: Any, size: int | None = None) -> bytes:
    """The bytes of standard base64 in its one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        data = b"?"
    need(base64.b64encode(data).decode() == text and size in (None, len(data)), "base64", f"standard base64 of {size} bytes")
    return data

# -- the grammar: canonical documents have one spelling each, so regular expressions over their bytes are enough ---------------
# $name stands for a line below, $?name for that or null, $[name a b] for a list of a to b of it, $text(a,b) for a string of so
# many bytes.  What begins with { is meant literally otherwise; its members shown as null are looked at elsewhere.
GRAMMAR = r"""
bool true|false ;; int 0|[1-9][0-9]{0,15} ;; pos [1-9][0-9]{0,15} ;; typmod -?[0-9]{1,10} ;; decimal "(0|[1-9][0-9]{0,19})"
b32 "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=" ;; sig "[A-Za-z0-9+/]{85}[AQgw]==" ;; b64 "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"
hash "[0-9a-f]{64}" ;; address "[0-9a-f]{40}" ;; id "[0-9a-f]{32}" ;; hex "([0-9a-f]{2}){1,65536}" ;; node "[a-z0-9-]{1,32}" ;; text "(?:[^"\\]|\\u....|\\[^u]){0,4096}"
cluster "(?=[^"]{1,255}")(?!([^"]*/)?\.\.?(/|"))[a-z0-9._-]+(/[a-z0-9._-]+)*" ;; finding_id "F-[0-9a-f]{12}" ;; anchor_type "[a-z0-9][a-z0-9._-]{0,63}"
escaped %([01][1-9A-F]|10|2[0-9A-CEF]|3[A-F]|40|5[B-E]|60|7[B-F])|%(C[2-9A-F]|D.)$more|%E0%[AB].$more|%(E[1-9A-CEF])$more{2}|%ED%[89].$more|%F0%[9AB].$more{2}|%F[1-3]$more{3}|%F4%8.$more{2} ;; cell ([^\\\x08-\x0d\0]|\\[\\btnvfr]){0,4096} ;; more %[89AB][0-9A-F]
table "(?=[^"]{1,1024}")([A-Za-z0-9_-]|$escaped)+\.([A-Za-z0-9_-]|$escaped)+" ;; lsn "$bare_lsn" ;; bare_lsn (0|[1-9A-F][0-9A-F]{0,7})/(0|[1-9A-F][0-9A-F]{0,7})
time "$bare_time" ;; bare_time (?!0000)[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])|(?<=[02468][048]00-|[13579][26]00-|[0-9]{2}0[48]-|[0-9]{2}[2468][048]-|[0-9]{2}[13579][26]-)02-29)T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z
day "[0-9]{4}-[0-9]{2}-[0-9]{2}"|$time ;; snapshot "[1-9][0-9]{0,19}:[1-9][0-9]{0,19}:([1-9][0-9]{0,19}(,[1-9][0-9]{0,19})*)?" ;; votes \{$node:$sig(,$node:$sig){0,63}\} ;; changes \{$text(1,256):$change(,$text(1,256):$change){0,255}\} ;; name $text(0,60000) ;; any_text $text(0,67108864) ;; pem $text(1,1048576) ;; column_name $text(1,255)
class "(row\.(modified|deleted|inserted)|table\.(replaced|dropped)|violation\.(update|delete|truncate|reinsert)|(schema|visibility|publication|identity|role|config|key)\.changed|change\.unapproved|slot\.lost|coverage\.gap|epoch\.restored|source\.unreachable|node\.(diverged|store-tampered|rolled-back)|quorum\.lost|anchor\.(missing|altered|hidden|late)|checkpoint\.forked|clock\.skew)"
entry 1\t(?P<seq>[1-9][0-9]{0,15})\t(?P<op>schema|baseline|insert|update|delete|truncate)\t(?P<key>\\N|\\H[0-9a-f]{64}|$cell(0,1024))\t(?P<row>\\N|[0-9a-f]{64})\t$bare_lsn\t(?P<xid>0|[1-9][0-9]{0,9})\t$bare_time\t(?P<by>\\N|$cell(0,256))\t(?P<hint>\\N|$cell(0,60000))\t(?P<intent>\\N|$cell(0,8192))
bundle {"anchors":null,"checkpoint":null,"consistency":null,"created":$time,"format":null,"policy":null,"records":null,"rows":null,"sha256":$hash,"tables":$[secret],"tool":$text(0,256)}
shown {"proof":$[b32],"record":null} ;; row {"blind":$?b32,"entry":null,"generation":$pos,"line":null,"proof":$[b32],"schema":null,"schema_proof":$[b32],"seal":$int,"state":$?state,"table":$table}
state {"bucket":$[hash],"proof":$[b32],"verify":$int} ;; secret {"generation":$pos,"secret":$?b32,"table":$table,"verify":$?int} ;; older {"checkpoint":null,"proof":$[b32]}
record {"at":$time,"body":null,"cluster":$id,"n":$pos,"node":$node,"prev":$hash,"seq":$pos,"sig":$sig,"type":null} ;; head {"chain":$hash,"generation":$pos,"root":$b32,"size":$pos,"table":$table}
auth {"operator":$text(1,256),"sig":$sig} ;; member {"addr":$text(1,255),"cosigner":$text(1,1024),"id":$node,"identity":$b32} ;; database {"name":$text(1,255),"system":$decimal,"timeline":$pos} ;; person {"key":$b32,"name":$text(1,256)} ;; change {"from":$?text,"to":$?text} ;; rules {"inserts_only":$bool,"require_intent":$bool,"retain":$bool}
keys {"columns":$[column_name 0 1600],"form":"(plain|hidden)"} ;; previous {"chain":$hash,"root":$b32,"size":$pos} ;; window {"first_bad":$?text,"last_good":$?text} ;; accepted {"key":$?text,"row":$?hash,"seq":$?pos}
r_genesis {"cluster":$cluster,"database":$database,"log_key":$text(1,1024),"members":$[member 1 64],"operators":$[person 0 256],"quorum":$pos} ;; r_member {"action":"(add|remove)","addr":$text(1,255),"auth":$auth,"cosigner":$text(1,1024),"from_lsn":$lsn,"id":$node,"identity":$b32,"nonce":$id}
r_key {"action":"(add|remove)","auth":$auth,"from_lsn":$lsn,"key":$text(1,4096),"kind":"(intent|operator|report|log)","name":$text(1,256),"nonce":$id} ;; r_config {"auth":$auth,"changes":$changes,"nonce":$id,"weakens":$bool} ;; r_open {"generation":$pos,"secret_sha256":$hash,"table":$table} ;; r_cancel {"generation":$pos,"reason":$text,"table":$table}
r_table {("auth":$auth,)?"generation":$pos,"keys":$keys,"lsn":$lsn,"mode":"(append_only|state_integrity)"(,"nonce":$id)?,"oid":$pos,"on_change":"(alert|record)","previous":$?previous,"reason":$text,"rules":$rules,"secret_sha256":$hash,"snapshot":$snapshot,"table":$table,"votes":$votes}
r_seal {"lsn":$lsn(,"part":$pos,"parts":$pos)?,"tables":$[head 1 10000],"votes":$votes} ;; r_dissent {"first_seq":$pos,"lsn":$lsn,"tables":$[head 1 10000]}
r_verify {"findings":$[finding_id],"generation":$pos,"journal_size":$pos,"lsn":$lsn,"mode":"(snapshot|rolling)","not_checked":$[text],"range":$?change,"rows":$int,"seconds":$int,"size":$pos,"snapshot":$snapshot,"state_expected":$b32,"state_found":$b32,"table":$table,"unresolved":$int,"verdict":"(VERIFIED|TAMPERED|INCONCLUSIVE)","votes":$votes}
r_finding {"class":$class,"explained_by":$?text,"found":$?text,"generation":$?pos,"id":$finding_id,"key":$?text,"lsn":$?lsn,"recorded":$?text,"seq":$?pos,"severity":"(critical|high|medium|low|info)","table":$?table,"window":$window,"xid":$?decimal} ;; r_ack {"finding":$finding_id,"reason":$text}
r_accept {"auth":$auth,"finding":$?finding_id,"generation":$?pos,"nonce":$id,"reason":$text,"rows":$[accepted],"table":$?table} ;; r_erase {"auth":$auth,"generation":$pos,"keys":$[text 1 70000],"nonce":$id,"reason":$text,"table":$table} ;; r_unprotect {"auth":$auth,"nonce":$id,"reason":$text,"table":$table}
r_prune {"auth":$auth,"generation":$pos,"nonce":$id,"reason":$text,"table":$table} ;; r_gap {"from_lsn":$lsn,"reason":$text,"tables":$[table 1 10000],"to_lsn":$lsn,"votes":$votes} ;; r_epoch {"final":$[head 1 10000](,"part":$pos,"parts":$pos)?,"reason":$text,"switch_lsn":$lsn,"system":$decimal,"timeline":$pos,"votes":$votes}
r_anchor {"digest":$hash,"receipt":null,"size":$pos,"type":$text(1,64)} ;; r_repair {"finding":$finding_id,"result":$text,"sql_sha256":$?hash,"target":$text} ;; r_operator {"action":$text,"detail":$text} ;; r_drill {"attack":$text,"detected_s":$?int,"result":$text} ;; a_opentimestamps {"digest":$hash,"proof":$b64,"size":$int,"type":"opentimestamps"} ;; r_report {"from":$day,"sha256":$hash,"standard":$text(1,64),"to":$day}
receipt {"digest":$hash,"size":$int,"type":$anchor_type} ;; a_basic {"digest":$hash,"note":$any_text,"size":$int,"type":"basic"} ;; a_evm {"block_hash":$hash,"block_number":$int,"block_time":($int|$time),"chain_id":$pos,"digest":$hash,"from":$address,"header":$hex,"proof":$[hex 1 64],"size":$int,"tx":$hash,"tx_index":$int,"type":"evm"}
a_rfc3161 {"digest":$hash,"response":$b64,"roots":$[pem 0 16],"size":$int,"type":"rfc3161","url":$text(1,2048)} ;; a_s3 {"bucket":$text(1,255),"date":$text(1,64),"digest":$hash,"endpoint":$text(0,2048),"etag":$text(0,256),"key":$text(1,1024),"mode":"(COMPLIANCE|GOVERNANCE)","retain_until":$time,"sha256":$hash,"size":$int,"type":"s3","version_id":$text(1,1024)}
schema {"columns":$[column],"identity":"[dfin]","oid":$int} ;; column {"key":$bool,"name":$name,"typmod":$typmod,"typoid":$int} ;; digest {"sha256":$hash} ;; envelope {"payload":$b64,"payloadType":"application/vnd\.in-toto\+json","signatures":\[{"keyid":$hash,"sig":$b64}\]} ;; subject {"digest":{"sha256":$hash},"name":$text(1,1024)} ;; statement {"_type":"https://in-toto\.io/Statement/v1","predicate":null,"predicateType":$text,"subject":null} ;; predicate {"cluster":$text,"cluster_id":$id,"created":$time,"evidence_sha256":$hash,"files":$int,"from":$day,"standard":$text(1,64),"to":$day,"tool":$text(0,256)}
intent {"by":$text(0,256),"hint":$text(0,4096),"key":$text(0,8192),"nonce":$id,"sig":$sig,"tables":$[table],"xid":$decimal}
"""  # noqa: E501
LINES = dict(item.split(" ", 1) for line in GRAMMAR.strip().splitlines() for item in line.split(" ;; "))

@lru_cache(maxsize=None)
def expand(name: str) -> str:
    def replace(found: re.Match[str]) -> str:
        either, item, few, many, plain, limits = found.groups()
        if item:
            least, most = int(few or 0), int(many or MAX_INT)
            rest = f"(?:{expand(item)})(?:,(?:{expand(item)})){{{max(least - 1, 0)},{most - 1 if many else ''}}}"
            return rf"\[(?:{rest}){'' if least else '?'}\]"
        text = expand(plain).replace("0,4096", limits or "0,4096")
        return f"(?:{text}{'|null' if either else ''})"
    line = LINES[name]
    line = re.sub(r"[{}]", r"\\\g<0>", line) if line[0] == "{" else line
    return re.sub(r"\$(\?)?(?:\[(\w+)(?: (\d+) (\d+))?\]|(\w+)(?:\(([\d,]+)\))?)", replace, line)

def match(name: str, data: bytes) -> re.Match[bytes] | None:
    return re.compile(expand(name).encode(), re.DOTALL).fullmatch(data)

def fits(name: str, value: Any, *elsewhere: str) -> None:
    """Refuse a value that is not of a line of the grammar, whatever stands in its members ``elsewhere``."""
    need(not elsewhere or (isinstance(value, dict) and value.keys() >= set(elsewhere)), name, "an object")
    bare = {**value, **dict.fromkeys(elsewhere)} if elsewhere else value
    need(match(name, canonical(bare).encode()), name.partition("_")[2] or name, f"what {name} has in the grammar")

def distinct(items: Sequence[Any]) -> bool:
    names = [(item["table"], item["generation"]) if isinstance(item, dict) else item for item in items]
    return len(set(names)) == len(names)

def snapshot(text: str) -> bool:
    """Whether xmin:xmax:xip,… ascends."""
    low, high, running = text.split(":")
    ends = [*[int(xid) for xid in running.split(",") if xid], int(high)]
    return int(low) <= ends[0] and all(a < b for a, b in zip(ends, ends[1:]))

RULES: dict[str, Callable[[Any], object]] = {  # what the members of a record's body say of each other
    "genesis": lambda b: len(b["members"]) // 2 < b["quorum"] <= len(b["members"]) and Key(b["log_key"], 1).name == b["cluster"]
    and all(Key(member["cosigner"], 4).name == f"{b['cluster']}/nodes/{member['id']}" for member in b["members"])
    and all(distinct([member[own] for member in b["members"]]) for own in ("id", "identity", "cosigner"))
    and distinct([person["name"] for person in b["operators"]]),
    "member": lambda b: Key(b["cosigner"], 4).name.endswith(f"/nodes/{b['id']}"),
    "key": lambda b: Key(b["key"], 1) if b["kind"] == "log" else len(unb64(b["key"], None if b["kind"] == "report" else 32)) <= 3072,
    "table": lambda b: distinct(b["keys"]["columns"]) and ("auth" in b) == ("nonce" in b) and b["oid"] < 1 << 32
    and snapshot(b["snapshot"]),
    "seal": lambda b: distinct(b["tables"]) and b.get("part", 0) <= b.get("parts", 0) != 1,
    "dissent": lambda b: distinct(b["tables"]),
    "gap": lambda b: distinct(b["tables"]),
    "epoch": lambda b: distinct(b["final"]) and b.get("part", 0) <= b.get("parts", 0) != 1,
    "verify": lambda b: distinct(b["findings"]) and (b["mode"] == "rolling") == (b["range"] is not None) and snapshot(b["snapshot"]),
    "finding": lambda b: b["table"] is not None or b["generation"] is None,
    "accept": lambda b: (b["table"] is None) == (b["generation"] is None)
    and (b["table"] is not None or (not b["rows"] and b["finding"] is not None)),
    "anchor": lambda b: check_receipt(b["receipt"]) is None and all(b["receipt"][name] == b[name] for name in ("type", "digest", "size")),
}

def check_record(record: Any) -> None:
    fits("record", record, "body", "type")
    kind, body = record["type"], record["body"]
    need(isinstance(kind, str) and f"r_{kind}" in LINES, "record", "a known type")
    fits(f"r_{kind}", body, *["receipt"] * (kind == "anchor"))
    need(RULES.get(kind, bool)(body) and len(canonical(record).encode()) <= 65535, kind, "members that agree, at most 65,535 bytes")

def check_receipt(receipt: Any) -> None:
    """All members of a known type, the common three of any other."""
    need(isinstance(receipt, dict), "receipt", "an object")
    known = f"a_{receipt.get('type')}" in LINES
    fits(f"a_{receipt['type']}" if known else "receipt", receipt if known else {
        name: receipt[name] for name in ("digest", "size", "type") if name in receipt})
    need(receipt["type"] != "basic" or Note(receipt["note"]), "receipt", "a note")
    need(receipt["type"] != "rfc3161" or len(receipt["response"]) <= 1398104, "receipt", "at most 1 MiB")

def unescape(cell: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\\\b\t\n\v\f\r"["\\btnvfr".index(found[1])], cell)

def is_row_line(line: str) -> bool:
    return all(re.fullmatch(r"\\N|(?:[^\\\x08-\x0d\0]|\\[\\btnvfr])*", cell) for cell in line.split("\t"))

class Entry:
    """A line of a table log.  ``columns``: names of the columns that a schema entry describes, where it lists them."""

    def __init__(self, line: str, path: str) -> None:
        found = match("entry", line.encode())
        need(found and len(line.encode()) <= 65535, path, "an entry")
        cells = {name: None if cell == b"\\N" else cell.decode() for name, cell in (found.groupdict() if found else {}).items()}
        key, row, hint, intent = (cells[name] for name in ("key", "row", "hint", "intent"))
        self.line, self.op, self.seq, self.columns = line, cells["op"], int(cells["seq"] or 0), None
        self.hidden = key[2:] if key and key.startswith("\\H") else None
        self.key = None if self.hidden or key is None else unescape(key)
        self.row = bytes.fromhex(row) if row else None
        need(self.key is None or is_row_line(self.key), path, "a key line")
        need(self.seq <= MAX_INT and int(cells["xid"] or 0) < 1 << 32, path, "numbers in range")
        need(not (key or row) if self.op in ("schema", "truncate") else self.op != "baseline" or cells["xid"] == "0", path, "an op")
        need(self.op == "schema" or len(unescape(hint or "").encode()) <= 4096, path, "a hint of at most 4,096 bytes")
        if self.op == "schema":
            need(hint is not None and cells["by"] is None and intent is None, path, "a hint alone")
            described = parse_json(unescape(hint or "").encode(), path, 60_000, "")
            by_digest = isinstance(described, dict) and described.keys() == {"sha256"}
            fits("digest" if by_digest else "schema", described)
            self.columns = None if by_digest else [column["name"] for column in described["columns"]]
            need(by_digest or all(column["typoid"] < 1 << 32 and -1 << 31 <= column["typmod"] < 1 << 31
                                  for column in described["columns"]) and described["oid"] < 1 << 32, path, "numbers of 32 bits")
        if intent is not None:
            said = parse_json(unescape(intent).encode(), path, 8192, "")
            fits("intent", said)
            need(int(said["xid"]) < 1 << 64, path, "an xid of 64 bits")

# -- trees, by the recursive definitions of RFC 9162 2.1 ----------------------------------------------------------------------

def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\0" + data).digest()

def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()

def root_with(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root to which an inclusion path leads (2.1.3.1); None where it is too short or too long."""
    if not 0 <= index < size < 1 << 64 or bool(path) != (size > 1) or len(path) > 63:
        return None
    if size == 1:
        return leaf
    middle, rest, top = 1 << (size - 1).bit_length() - 1, path[:-1], path[-1]
    right = index >= middle
    below = root_with(index - middle, size - middle, leaf, rest) if right else root_with(index, middle, leaf, rest)
    return below and (node_hash(top, below) if right else node_hash(below, top))

def roots_with(old: int, new: int, known: bytes | None, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Old and new root to which a consistency path leads (2.1.4.1); ``known``: the old root, while the old tree is whole."""
    if old == new:
        whole = [*path, *([known] if known else [])]
        return (whole[0], whole[0]) if len(whole) == 1 else None
    if not 0 < old < new or not path or len(path) > 63:
        return None
    middle, rest, top = 1 << (new - 1).bit_length() - 1, path[:-1], path[-1]
    if old <= middle:
        below = roots_with(old, middle, known, rest)
        return below and (below[0], node_hash(below[1], top))
    below = roots_with(old - middle, new - middle, None, rest)
    return below and (node_hash(top, below[0]), node_hash(top, below[1]))

# -- elliptic curves ----------------------------------------------------------------------------------------------------------

Point = Any  # Ed25519: extended coordinates (X, Y, Z, T); the other curves: (x, y), or () for the neutral element
P25519, L25519 = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D25519 = -121665 * pow(121666, -1, P25519) % P25519

def times(add: Callable[[Point, Point], Point], zero: Point, factor: int, point: Point) -> Point:
    for bit in bin(factor)[2:]:
        zero = add(zero, zero)
        zero = add(zero, point) if bit == "1" else zero
    return zero

def ed_add(one: Point, two: Point) -> Point:
    a, b = (one[1] - one[0]) * (two[1] - two[0]), (one[1] + one[0]) * (two[1] + two[0])
    c, d = 2 * D25519 * one[3] * two[3], 2 * one[2] * two[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P25519, g * h % P25519, f * g % P25519, e * h % P25519

def ed_point(data: bytes) -> Point | None:
    """RFC 8032 5.1.3."""
    y, sign = int.from_bytes(data, "little") % 2**255 % P25519, data[31] >> 7
    square = (y * y - 1) * pow(D25519 * y * y + 1, -1, P25519) % P25519
    x = pow(square, (P25519 + 3) // 8, P25519)
    x = x if (x * x - square) % P25519 == 0 else x * pow(2, (P25519 - 1) // 4, P25519) % P25519
    if (x * x - square) % P25519:
        return None
    x = -x % P25519 if x & 1 != sign else x
    return x, y, 1, x * y % P25519

ED_BASE = ed_point((4 * pow(5, -1, P25519) % P25519).to_bytes(32, "little"))

@lru_cache(maxsize=4096)
def ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    """RFC 8032 5.1.7."""
    point, s = ed_point(public), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or point is None or s >= L25519:
        return False
    k = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % L25519
    zero, minus = (0, 1, 1, 0), (-point[0], point[1], 1, -point[3])
    x, y, z, _ = ed_add(times(ed_add, zero, s, ED_BASE), times(ed_add, zero, k, minus))
    x, y = x * pow(z, -1, P25519) % P25519, y * pow(z, -1, P25519) % P25519
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]

class Curve:
    """y² = x³ + ax + b over a prime field, and a point of prime order n."""

    def __init__(self, p: int, a: int, b: int, n: int, x: int, y: int) -> None:
        self.p, self.a, self.b, self.n, self.base = p, a, b, n, (x, y)

    def add(self, one: Point, two: Point) -> Point:
        if not one or not two:
            return one or two
        if one[0] == two[0] and (one[1] + two[1]) % self.p == 0:
            return ()
        over, under = (3 * one[0] ** 2 + self.a, 2 * one[1]) if one == two else (two[1] - one[1], two[0] - one[0])
        slope = over * pow(under, -1, self.p)
        x = (slope**2 - one[0] - two[0]) % self.p
        return x, (slope * (one[0] - x) - one[1]) % self.p

    def times(self, factor: int, point: Point) -> Point:
        return times(self.add, (), factor % self.n, point)

    def verify(self, public: Point, message: bytes, r: int, s: int) -> bool:
        """FIPS 186-5 6.4.2 with SHA-256."""
        x, y = public
        on_curve = max(x, y) < self.p and (y * y - x**3 - self.a * x - self.b) % self.p == 0
        if not (on_curve and 0 < r < self.n and 0 < s < self.n):
            return False
        digest, w = int.from_bytes(sha256(message).digest(), "big"), pow(s, -1, self.n)
        point = self.add(self.times(digest * w, self.base), self.times(r * w, public))
        return bool(point) and point[0] % self.n == r

P256 = Curve(2**256 - 2**224 + 2**192 + 2**96 - 1, -3, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
             2**256 - 2**224 + 2**192 - 89188191075325690597107910205041859247,
             0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
             0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)
K256 = Curve(2**256 - 2**32 - 977, 0, 7, 2**256 - 432420386565659656852420866394968145599,
             0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
             0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)

# -- Ethereum: Keccak-256, RLP, the trie, who sent a transaction --------------------------------------------------------------

def keccak256(data: bytes) -> bytes:
    mask, state, rc = (1 << 64) - 1, [0] * 25, 1
    padded = bytearray(data + b"\1" + bytes(-(len(data) + 1) % 136))
    padded[-1] |= 0x80
    constants = []
    for _ in range(24):
        constants.append(0)
        for j in range(7):
            constants[-1] |= (rc & 1) << (1 << j) - 1
            rc = (rc << 1) ^ (0x171 if rc & 0x80 else 0)
    for start in range(0, len(padded), 136):
        for lane in range(17):
            state[lane] ^= int.from_bytes(padded[start + 8 * lane:start + 8 * lane + 8], "little")
        for constant in constants:
            c = [state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20] for x in range(5)]
            d = [c[x - 1] ^ (c[(x + 1) % 5] << 1 & mask | c[(x + 1) % 5] >> 63) for x in range(5)]
            state = [lane ^ d[i % 5] for i, lane in enumerate(state)]
            x, y, moved = 1, 0, state[1]
            for t in range(1, 25):
                x, y, turn = y, (2 * x + 3 * y) % 5, t * (t + 1) // 2 % 64
                state[x + 5 * y], moved = (moved << turn | moved >> 64 - turn) & mask, state[x + 5 * y]
            state = [lane ^ (~state[i - i % 5 + (i + 1) % 5] & state[i - i % 5 + (i + 2) % 5]) for i, lane in enumerate(state)]
            state[0] ^= constant
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])

def rlp(data: bytes, start: int = 0, depth: int = 0) -> tuple[Any, int]:
    """The item at ``start`` (bytes, or a list of items) and where it ends; refused in any but its only spelling."""
    need(start < len(data) and depth < 8, "RLP", "an item")
    if data[start] < 0x80:
        return data[start:start + 1], start + 1
    base = 0xC0 if data[start] >= 0xC0 else 0x80
    length, start = data[start] - base, start + 1
    if length > 55:
        start, width = start + length - 55, data[start:start + length - 55]
        length = int.from_bytes(width, "big")
        need(length > 55 and width[0], "RLP", "a length in its only form")
    end, items = start + length, []
    need(end <= len(data) and not (base == 0x80 and length == 1 and data[start] < 0x80), "RLP", "a whole item")
    while base == 0xC0 and start < end:
        item, start = rlp(data, start, depth + 1)
        items.append(item)
    need(base == 0x80 or start == end, "RLP", "items that fill their list")
    return (items if base == 0xC0 else data[start:end]), end

def rlp_list(data: bytes, *lengths: int) -> list[Any]:
    items, end = rlp(data)
    need(isinstance(items, list) and len(items) in lengths and end == len(data), "RLP", "a list and nothing after it")
    return list(items)

def rlp_number(item: Any) -> int:
    need(isinstance(item, bytes) and len(item) <= 32 and item[:1] != b"\0", "RLP", "a number")
    return int.from_bytes(item, "big")

def rlp_integer(value: int) -> bytes:
    data = value.to_bytes(32, "big").lstrip(b"\0")
    return data if 0 < value < 0x80 else bytes([0x80 + len(data)]) + data

def in_trie(root: bytes, index: int, proof: list[bytes]) -> bytes:
    """The value under rlp(index) in a Merkle-Patricia trie; the proof is its nodes, all of them used."""
    path, child, nodes, ends = rlp_integer(index).hex(), root, list(proof), False
    while not ends:
        if not isinstance(child, list):
            need(nodes and keccak256(nodes[0]) == child, "trie", "the node that the one above names")
            child = rlp_list(nodes.pop(0), 2, 17)
        need(len(child) in (2, 17), "trie", "a node of 2 or 17 items")
        if len(child) == 17:
            child, path, ends = (child[int(path[0], 16)], path[1:], False) if path else (child[16], "", True)
            continue
        need(isinstance(child[0], bytes) and child[0] and (child[0][0] >> 4) < 4, "trie", "a path in hex-prefix encoding")
        kind, nibbles = child[0][0] >> 4, child[0].hex()[1:]
        need(kind & 1 or nibbles[0] == "0", "trie", "a path in hex-prefix encoding")
        nibbles, ends = nibbles[1 - (kind & 1):], kind > 1
        need(path.startswith(nibbles) and (ends or nibbles), "trie", "the way to this transaction")
        child, path = child[1], path[len(nibbles):]
    need(not path and not nodes and isinstance(child, bytes) and child, "trie", "a value at the end and nothing more")
    return bytes(child)

def check_evm(receipt: dict[str, Any]) -> None:
    """Refused where the receipt does not prove that its sender put the digest into its block (EIP-1559 transactions)."""
    header = rlp_list(bytes.fromhex(receipt["header"]), *range(15, 64))
    block = [keccak256(bytes.fromhex(receipt["header"])).hex(), rlp_number(header[8]), rlp_number(header[11])]
    told, when = receipt["block_time"], datetime.fromtimestamp(min(block[2], 1 << 37), timezone.utc)
    block[2] = block[2] if isinstance(told, int) else when.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    need(block == [receipt["block_hash"], receipt["block_number"], told], "block", "a header of that hash, number and time")
    raw = in_trie(header[4], receipt["tx_index"], [bytes.fromhex(node) for node in receipt["proof"]])
    need(keccak256(raw).hex() == receipt["tx"], "transaction", "that hash")
    kind = raw[0] if raw[0] < 0xC0 else 0
    need(kind < 3, "transaction", "type 0, 1 or 2")
    body = raw[kind > 0:]
    items = rlp_list(body, (9, 11, 12)[kind])
    v, r, s = map(rlp_number, items[-3:])
    chain, parity = (rlp_number(items[0]), v) if kind else divmod(v - 35, 2)
    need(0 < chain < 1 << 64, "transaction", "a chain that it is bound to")
    start = end = 1 if body[0] < 0xF8 else body[0] - 0xF6
    for _ in items[:-3]:
        end = rlp(body, end)[1]
    signed = body[start:end] + (b"" if kind else rlp_integer(chain) + b"\x80\x80")
    size = len(signed)
    width = size.to_bytes(4, "big").lstrip(b"\0")
    head = bytes([0xC0 + size]) if size < 56 else bytes([0xF7 + len(width)]) + width
    digest = int.from_bytes(keccak256(bytes([kind] * (kind > 0)) + head + signed), "big")
    square = (r**3 + 7) % K256.p
    y = pow(square, (K256.p + 1) // 4, K256.p)
    need(parity in (0, 1) and 0 < r < K256.n and 0 < s <= K256.n // 2 and y * y % K256.p == square, "transaction", "a signature")
    inverse, point = pow(r, -1, K256.n), (r, y if y & 1 == parity else K256.p - y)
    public = K256.add(K256.times(s * inverse, point), K256.times(-digest * inverse, K256.base))
    sender = keccak256(b"".join(part.to_bytes(32, "big") for part in public))[12:].hex()
    to, value, data = items[3 + kind:6 + kind]
    said = [chain, sender, to, value, data]
    wanted = [receipt["chain_id"], receipt["from"], bytes.fromhex(receipt["from"]), b"", bytes.fromhex(receipt["digest"])]
    need(said == wanted, "transaction", "one on that chain from the sender to itself, without value, with the digest as data")

# -- signed notes, checkpoints, policies (c2sp.org) ---------------------------------------------------------------------------

NAME = r"[^\0-\x20+\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]+"
ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
SMALL_ORDER = (0, 1, ORDER_8, P25519 - ORDER_8, P25519 - 1, P25519, P25519 + 1)  # a "key" there fits many messages

class Key:
    """A verifier key: name+id+base64(kind, public key); kind 1 signs notes, kind 4 cosigns."""

    def __init__(self, text: str, *kinds: int) -> None:
        self.name, _, rest = text.partition("+")
        number, _, encoded = rest.partition("+")
        data = unb64(encoded, 33)
        need(re.fullmatch(NAME, self.name) and len(text) <= 1024 and data[0] in kinds, "key", "name+id+base64")
        self.kind, self.public = data[0], data[1:]
        y = int.from_bytes(self.public, "little") % 2**255
        need(number == self.id(self.kind).hex() and y not in SMALL_ORDER, "key", "its id, and a point of large order")

    def id(self, kind: int) -> bytes:
        return sha256(f"{self.name}\n".encode() + bytes([kind]) + self.public).digest()[:4]

class Note:
    """A signed note: ``text``, ``signatures`` as (name, key id, signature)."""

    def __init__(self, data: Any) -> None:
        need(isinstance(data, str) and len(data) <= 1 << 21, "note", "a text of at most 2 MiB")
        text, blank, lines = data.rpartition("\n\n")
        self.text = text + "\n"
        found = [re.fullmatch(f"— ({NAME}) ([^ ]+)", line) for line in lines[:-1].split("\n")]
        fine = blank and lines[-1:] == "\n" and all(found) and len(found) <= 100 and len(self.text.encode()) <= 1 << 20
        need(fine and not re.search("[\0-\x09\x0b-\x1f]", self.text), "note", "a text, a blank line, signatures")
        self.signatures = [(one[1], unb64(one[2])[:4], unb64(one[2])[4:]) for one in found if one]
        need(all(signature for _, _, signature in self.signatures), "note", "signatures longer than a key's id")
        self.digest = sha256(self.text.encode()).hexdigest()

    def checkpoint(self) -> tuple[str, int, bytes]:
        """Origin, size, root."""
        found = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,19})\n([^\n]+)\n", self.text)
        need(found and int(found[2]) < 1 << 64, "checkpoint", "origin, size, root and no other line")
        return (found[1], int(found[2]), unb64(found[3], 32)) if found else ("", 0, b"")

    def signed_by(self, key: Key, kind: int) -> bool | None:
        """None: no signature names the key.  False: one does, and is not by it."""
        own = [signature for name, number, signature in self.signatures if (name, number) == (key.name, key.id(kind))]
        return all(self.fits(key, kind, signature) for signature in own) if own else None

    def fits(self, key: Key, kind: int, signature: bytes) -> bool:
        if kind == 1:
            return ed25519(key.public, signature, self.text.encode())
        seconds = int.from_bytes(signature[:8], "big")
        message = f"cosignature/v1\ntime {seconds}\n{self.text}".encode()
        return len(signature) == 72 and seconds < 1 << 63 and ed25519(key.public, signature[8:], message)

class Policy:
    """The keys that somebody trusts: logs, witnesses by name, groups as (threshold, members) by name, the quorum's name."""

    def __init__(self, data: bytes) -> None:
        fine = len(data) <= 1 << 16 and (data or b"\n").endswith(b"\n") and not re.search(rb"[^\t\n\x20-\x7e\x80-\xff]", data)
        need(fine, "policy", "at most 64 KiB of lines of text")
        self.logs: list[Key] = []
        self.witnesses: dict[str, Key] = {}
        self.groups: dict[str, tuple[int, list[str]]] = {}
        quorums, used = [], []
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            kind, *words = [word for word in re.split("[ \t]+", line) if word] or ["#"]
            known = ["none", *self.witnesses, *self.groups]
            if kind == "log" and len(words) in (1, 2):
                self.logs.append(Key(words[0], 1))
            elif kind == "witness" and len(words) in (2, 3) and words[0] not in known:
                self.witnesses[words[0]] = Key(words[1], 1, 4)
            elif kind == "group" and len(words) > 2 and words[0] not in known:
                name, threshold, *members = words
                least = {"any": "1", "all": str(len(members))}.get(threshold, threshold)
                used += members
                fine = bool(re.fullmatch("[1-9][0-9]{0,4}", least)) and int(least) <= len(members) and distinct(used)
                need(fine and set(members) <= set(known[1:]), "policy", "a group of names defined before, each a member once")
                self.groups[name] = int(least), members
            elif kind == "quorum" and len(words) == 1 and words[0] in known:
                quorums.append(words[0])
            else:
                need(kind[0] == "#", "policy", f"log, witness, group or quorum, not {line[:60]!r}")
        keys = [[key.public for key in some] for some in (self.logs, self.witnesses.values())]
        need(len(quorums) == 1 and distinct(keys[0]) and distinct(keys[1]), "policy", "one quorum line, every key once")
        self.quorum = quorums[0]

def judge(policy: Policy | None, note: Note) -> list[tuple[str, str, str]]:
    """Checks of a checkpoint: all signatures that name a key of the policy verify, the log's is there, the quorum is met."""
    if policy is None:
        return [("skip", "signatures", "no policy was given, so nobody's signature was checked")]
    witnesses = [(name, note.signed_by(key, 4)) for name, key in policy.witnesses.items()]
    logs = [(key.name, note.signed_by(key, 1)) for key in policy.logs]
    bad, origin = [name for name, fine in [*logs, *witnesses] if fine is False], note.checkpoint()[0]
    if bad or (origin, True) not in logs:
        return [("fail", "signatures", f"do not verify: {bad}" if bad else "no signature by a log of the policy")]
    met = [name for name, fine in witnesses if fine]
    detail = f"cosigned by {len(met)} of {len(witnesses)} witnesses: {' '.join(met)}".encode("utf-8", "replace").decode()
    for group, (least, members) in policy.groups.items():
        met += [group] if len(set(members) & set(met)) >= least else []
    quorum = "ok" if policy.quorum in ["none", *met] else "skip"
    return [("ok", "signatures", f"signed by the log {origin}"), (quorum, "quorum", detail)]

# -- bundles ------------------------------------------------------------------------------------------------------------------

ROW_OPS = ("baseline", "insert", "update")

def raw(proof: list[str]) -> list[bytes]:
    return [unb64(one) for one in proof]

def found_nothing(body: dict[str, Any]) -> bool:
    fine = body["verdict"] == "VERIFIED" and body["state_found"] == body["state_expected"]
    return bool(fine and not body["unresolved"] and not body["findings"])

class Bundle:
    """A bundle whose grammar holds; what it claims is unchecked until :meth:`check`."""

    def __init__(self, data: bytes) -> None:
        value = parse_json(data, "bundle")
        need(isinstance(value, dict) and value.get("format") == "witnz-bundle/1", "bundle", "format witnz-bundle/1")
        rest = canonical({name: item for name, item in value.items() if name != "sha256"})
        need(value.get("sha256") == sha256(rest.encode()).hexdigest(), "bundle", "the digest of the rest as sha256")
        lists = ("anchors", "consistency", "records", "rows")
        fits("bundle", value, "checkpoint", "format", "policy", *lists)
        need(all(isinstance(value[name], list) for name in lists) and isinstance(value["policy"], str), "bundle", "lists")
        self.value, self.note, self.older, self.rows = value, Note(value["checkpoint"]), [], []
        self.origin, self.size, self.root = self.note.checkpoint()
        for item in value["records"]:
            fits("shown", item, "record")
            check_record(item["record"])
        self.records = [item["record"] for item in value["records"]]
        for row in value["rows"]:
            fits("row", row, "entry", "line", "schema")
            texts = all(isinstance(row[name], str) for name in ("entry", "schema"))
            line = row["line"] is None or (isinstance(row["line"], str) and is_row_line(row["line"]))
            need(texts and line and (row["line"] is None) == (row["blind"] is None), "row", "lines, line and blind together")
            self.rows.append((row, Entry(row["schema"], "schema"), Entry(row["entry"], "entry")))
        for item in value["consistency"]:
            fits("older", item, "checkpoint")
            note = Note(item["checkpoint"])
            self.older.append((note, *note.checkpoint(), raw(item["proof"])))
        for receipt in value["anchors"]:
            check_receipt(receipt)
        Policy(value["policy"].encode())

    def check(self, policy: Policy | None, tell: Say) -> None:
        """Rules 2 to 8 of the format, in their order."""
        def say(status: str | bool, name: str, detail: str) -> None:
            tell({True: "ok", False: "fail"}.get(status, str(status)), name, detail)
        for status, part, why in judge(policy, self.note):
            say(status, f"checkpoint.{part}", why)
        wrong = []
        for index, (record, item) in enumerate(zip(self.records, self.value["records"])):
            root = root_with(record["seq"] - 1, self.size, leaf_hash(canonical(record).encode()), raw(item["proof"]))
            wrong += [(index, "is not in the checkpoint's tree")] if root != self.root else []
            foreign = record["type"] == "genesis" and record["body"]["cluster"] != self.origin
            wrong += [(index, "is of another log")] if foreign else []
        for index, why in wrong:
            say(False, f"records[{index}]", f"the {self.records[index]['type']} record {why}")
        if len({record["cluster"] for record in self.records}) > 1:
            say(False, "records.cluster", "records of several clusters")
        elif not wrong:
            detail = f"{len(self.records)} records are in the tree of size {self.size}"
            say("ok" if self.records else "skip", "records", detail)
        tables = [record["body"] for record in self.records if record["type"] == "table"]
        self.tables = {(body["table"], body["generation"]): body for body in reversed(tables)}
        for index, (row, schema, entry) in enumerate(self.rows):
            for status, part, why in self.row(row, schema, entry):
                say(status, f"rows[{index}].{part}", why)
        for index, table in enumerate(self.value["tables"]):
            for status, part, why in self.table(table):
                say(status, f"tables[{index}].{part}", why)
        good = {self.note.digest: self.size}
        for index, (note, origin, size, root, proof) in enumerate(self.older):
            empty = (size, root, proof) == (0, sha256(b"").digest(), [])
            fine = origin == self.origin and (empty or roots_with(size, self.size, root, proof) == (root, self.root))
            checks = [*judge(policy, note), (fine, "proof", f"size {size} is {'' if fine else 'not '}a prefix of {self.size}")]
            for status, part, why in checks:
                say(status, f"consistency[{index}].{part}", why)
            good.update({} if any(check[0] in ("fail", False) for check in checks) else {note.digest: size})
        for index, receipt in enumerate(self.value["anchors"]):
            for status, part, why in self.anchor(receipt, good, policy):
                say(status, f"anchors[{index}]{part}", f"{receipt['type']}: {why}")

    def body(self, position: int, kind: str, log: Any) -> dict[str, Any] | None:
        """The body of the record at a position, if it is of this kind and, but for seals, of this table and generation."""
        record = self.records[position] if position < len(self.records) else {"type": "none"}
        own = record["type"] == kind and (kind == "seal" or (record["body"]["table"], record["body"]["generation"]) == log)
        return record["body"] if own else None

    def row(self, row: dict[str, Any], schema: Entry, entry: Entry) -> Any:
        log, state = (row["table"], row["generation"]), row["state"]
        seal = self.body(row["seal"], "seal", log) or {"tables": []}
        heads = [(head["size"], unb64(head["root"])) for head in seal["tables"] if (head["table"], head["generation"]) == log]
        sealed = len(heads) == 1 and schema.op == "schema" and schema.seq < entry.seq and all(
            root_with(one.seq - 1, heads[0][0], leaf_hash(one.line.encode()), raw(proof)) == heads[0][1]
            for one, proof in ((entry, row["proof"]), (schema, row["schema_proof"])))
        yield sealed, "log", f"entry {entry.seq} of {log[0]} is {'' if sealed else 'not '}in the log as sealed"
        if entry.row is None and entry.op in ROW_OPS:
            yield "skip", "line", f"entry {entry.seq} is unresolved: its stream did not carry the whole row"
        elif row["line"] is not None:
            yield from self.line(row, schema, entry, log)
        if state is not None:
            body, bucket = self.body(state["verify"], "verify", log), [bytes.fromhex(member) for member in state["bucket"]]
            fine = body is not None and body["mode"] == "snapshot" and found_nothing(body) and body["size"] >= entry.seq
            fine = fine and entry.op in ROW_OPS and entry.row in bucket and bucket == sorted(bucket)
            fine = fine and all(member[:2] == bucket[0][:2] for member in bucket)
            if fine and body:
                leaf = leaf_hash(sha256(b"\2" + len(bucket).to_bytes(8, "big") + b"".join(bucket)).digest())
                root = root_with(int.from_bytes(bucket[0][:2], "big"), 65536, leaf, raw(state["proof"]))
                fine = root == unb64(body["state_found"])
            yield fine, "state", f"the row was {'' if fine else 'not shown to be '}in a table that was verified as recorded"

    def line(self, row: dict[str, Any], schema: Entry, entry: Entry, log: Any) -> Any:
        cells, columns = row["line"].split("\t"), schema.columns
        if sha256(unb64(row["blind"]) + row["line"].encode()).digest() != entry.row or schema.op != "schema":
            return [(False, "line", f"the row line shown is not the one recorded by entry {entry.seq}")]
        if columns is None:
            return [("skip", "line", "the columns are too many to be described in the log")]
        if len(cells) != len(columns):
            return [(False, "line", f"the row line has {len(cells)} columns, its schema entry {len(columns)}")]
        values, keys = dict(zip(columns, cells)), self.tables.get(log, {"keys": {"columns": [None]}})["keys"]
        key = None if not set(keys["columns"]) <= values.keys() else "\t".join(values[column] for column in keys["columns"])
        secrets = [unb64(item["secret"]) for item in self.value["tables"] if item["secret"] and self.opens(item)
                   and (item["table"], item["generation"]) == log]
        fine: bool | str = key is not None and (entry.key, entry.hidden) == ((key, None) if keys["columns"] else (None, None))
        if key is not None and keys["columns"] and (keys["form"] == "hidden" or len(key.encode()) > 1024):
            hidden = [sha256(secret + b"\0" + key.encode()).hexdigest() for secret in secrets[-1:]]
            fine = "skip" if entry.hidden and not secrets else entry.hidden is not None and entry.hidden in hidden
        why = {True: "the key is that of the row line", "skip": "the key is hidden, and the table's secret not shown"}
        return [(True, "line", f"the row line is the one recorded by entry {entry.seq}"), (fine, "key", why.get(fine, "another row's"))]

    def opens(self, item: dict[str, Any]) -> bool:
        """Whether the secret shown is the one that the table's record commits to."""
        body = self.tables.get((item["table"], item["generation"]), {"secret_sha256": ""})
        return bool(sha256(b"witnz/secret/1\n" + unb64(item["secret"])).hexdigest() == body["secret_sha256"])

    def table(self, item: dict[str, Any]) -> Any:
        log = (item["table"], item["generation"])
        yield log in self.tables, "record", f"{log[0]}, generation {log[1]}"
        if item["secret"] is not None and log in self.tables:
            yield self.opens(item), "secret", "the secret against its commitment"
        if item["verify"] is not None and log in self.tables:
            body = self.body(item["verify"], "verify", log)
            doubtful = body is not None and body["verdict"] == "INCONCLUSIVE"
            yield "skip" if doubtful else body is not None and found_nothing(body), "verify", "the verification shown of the table"

    def anchor(self, receipt: dict[str, Any], good: dict[str, int], policy: Policy | None) -> Any:
        kind, size = receipt["type"], receipt["size"]
        if good.get(receipt["digest"]) != size:
            return [(False, "", "the receipt is for no checkpoint of this bundle, or of another size")]
        covers = f"the receipt is for the checkpoint of size {size} and covers no record beyond it"
        if f"a_{kind}" not in LINES:
            return [("skip", "", f"{covers}; receipts of this type are not known: NOT CHECKED")]
        if kind == "basic":
            note = Note(receipt["note"])
            checks = judge(policy, note) if note.digest == receipt["digest"] else [("fail", "note", "it is of another checkpoint")]
            return [(True, "", covers), *((status, f".{part}", why) for status, part, why in checks)]
        if kind != "evm":
            part = {"s3": ".object", "rfc3161": ".token"}.get(kind, ".proof")
            return [(True, "", covers), ("n/a", part, "not checked by this program; see witnz verify --online, openssl ts, ots")]
        try:
            check_evm(receipt)
        except Refused as error:
            return [(True, "", covers), (False, ".proof", str(error))]
        return [(True, "", covers), (True, ".proof", f"put there by 0x{receipt['from']} on chain {receipt['chain_id']}, in block "
                 f"{receipt['block_number']}, 0x{receipt['block_hash']}, time {receipt['block_time']}"),
                ("n/a", ".trust", "whether that sender is the operator's and that block stands in the chain: NOT CHECKED")]

# -- report packages ----------------------------------------------------------------------------------------------------------

OWN = "bundles/report.witnz.json"
UNSIGNED = {"report.json", OWN, "SHA256SUMS"}  # what the signed list of files cannot hold: itself and what came after it

def p256_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """ECDSA over P-256 with SHA-256: a SubjectPublicKeyInfo of an uncompressed point, a signature in DER."""
    found = re.fullmatch(rb"\x30(.)\x02(.)(.+)", signature, re.DOTALL)
    head = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
    if public[:-64] != head or not found or found[1][0] != len(signature) - 2:
        return False
    r, rest = found[3][:found[2][0]], found[3][found[2][0]:]
    s = rest[2:]
    fine = rest[:2] == bytes([2, len(s)]) and all(part and part[0] < 0x80 and (part[0] or part[1:2] >= b"\x80") for part in (r, s))
    point = int.from_bytes(public[-64:-32], "big"), int.from_bytes(public[-32:], "big")
    return fine and P256.verify(point, message, int.from_bytes(r, "big"), int.from_bytes(s, "big"))

def check_package(files: dict[str, bytes], policy: Policy | None, tell: Say) -> list[tuple[str, Bundle]]:
    """A package: the signed list of its files, by a key that stands in the journal; its evidence; every bundle."""
    def say(fine: object, name: str, detail: str) -> None:
        tell("ok" if fine else "fail", name, detail)
    need({"report.json", "evidence.json", OWN} <= files.keys(), "package", f"report.json, evidence.json and {OWN}")
    envelope = parse_json(files["report.json"], "report.json")
    fits("envelope", envelope)
    payload, signature = unb64(envelope["payload"]), envelope["signatures"][0]
    report, evidence = parse_json(payload, "payload", end=""), parse_json(files["evidence.json"], "evidence.json")
    for value, kind in ((report, "report"), (evidence, "evidence")):
        fits("statement", value, "predicate", "subject")
        need(value["predicateType"] == f"https://witnz.dev/{kind}/v1" and isinstance(value["subject"], list), kind, "a statement")
        for subject in value["subject"]:
            fits("subject", subject)
    fits("predicate", report["predicate"])
    bundles = [(name, Bundle(data)) for name, data in sorted(files.items()) if name.endswith(".witnz.json")]
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()) if name != "SHA256SUMS")
    say(files.get("SHA256SUMS") == sums.encode(), "report.sums", f"SHA256SUMS lists these {len(files) - 1} files")
    signed, listed = ({item["name"]: item["digest"]["sha256"] for item in value["subject"]} for value in (report, evidence))
    present = {name: digest for name, digest in digests.items() if name not in UNSIGNED}
    odd = sorted(name for name in {*signed, *present} if signed.get(name) != present.get(name))
    say(not odd and len(signed) == len(report["subject"]), "report.files", f"{len(signed)} files are those signed; others: {odd}")
    about, own = report["predicate"], dict(bundles)[OWN]
    keys = [record for record in own.records if record["type"] == "key" and record["body"]["kind"] == "report"]
    key = next((one for one in keys if sha256(unb64(one["body"]["key"])).hexdigest() == signature["keyid"]), None)
    removed = any(one["body"]["action"] == "remove" for one in keys)
    say(key and not removed, "report.key", f"report key {signature['keyid']} stands in the journal")
    message = f"DSSEv1 {len(envelope['payloadType'])} {envelope['payloadType']} {len(payload)} ".encode() + payload
    good = key is not None and p256_signed(unb64(key["body"]["key"]), unb64(signature["sig"]), message)
    say(good, "report.signature", "report.json is signed by that key (ECDSA P-256)")
    said = {"standard": about["standard"], "from": about["from"], "to": about["to"], "sha256": digests["report.json"]}
    after = [one for one in own.records if one["type"] == "report" and one["body"] == said and (not key or one["seq"] > key["seq"])]
    ours = after and about["cluster_id"] == after[0]["cluster"] and about["cluster"] == own.origin
    say(ours, "report.record", "the journal holds the digest of report.json")
    inner = evidence["predicate"] if isinstance(evidence["predicate"], dict) else {}
    told, period = inner.get("report", {}), inner.get("period", {})
    same = all(told.get(name) == about[name] for name in ("standard", "from", "to")) and about["files"] == len(signed)
    fine = same and about["evidence_sha256"] == digests["evidence.json"] and inner.get("cluster", {}).get("id") == about["cluster_id"]
    say(fine and listed.items() <= signed.items(), "report.evidence", "evidence.json is of this report and of these files")
    closing, opening = period.get("closing", {}), period.get("opening")
    main = dict(bundles).get("bundles/period.witnz.json", own)
    heads = [(size, base64.b64encode(root).decode()) for _, _, size, root, _ in main.older]
    fine = (closing.get("size"), closing.get("root")) == (main.size, base64.b64encode(main.root).decode())
    fine = fine and (opening is None or (opening["size"], opening["root"]) in heads)
    say(fine, "report.period", "opening and closing checkpoint are those of bundles/period.witnz.json")
    gaps = inner.get("coverage", {}).get("open_gaps")
    tell("ok" if gaps == [] else "skip", "report.coverage", f"tables with an open gap: {gaps}")
    tell("n/a", "report.figures", "the figures of evidence.json against the records: by witnz verify --report")
    tell("n/a", "report.pdf", "the signature inside report.pdf: by witnz verify --report, pdfsig or a PDF reader; its digest is signed")
    return bundles

CODES = {"VERIFIED": 0, "TAMPERED": 3, "INCONCLUSIVE": 4}
WORDS = {"ok": "OK", "fail": "FAIL", "skip": "NOT CHECKED", "n/a": "NOT CHECKED"}

def judged(checks: Sequence[tuple[str, str, str]]) -> str:
    found = {status for status, _, _ in checks}
    return "TAMPERED" if "fail" in found else "INCONCLUSIVE" if "skip" in found or "ok" not in found else "VERIFIED"

def verify_files(given: Any, policy: Policy | None, required: Sequence[str], tell: Say) -> None:
    """The bytes of a bundle; or the files of a package by name, with all bundles in it."""
    bundles = [("", Bundle(given))] if isinstance(given, bytes) else check_package(given, policy, tell)
    checks: list[tuple[str, str, str]] = []
    for name, bundle in bundles:
        bundle.check(policy, lambda status, part, why, at=name and f"{name}: ": checks.append((status, at + part, why)))
    whole = {(status == "ok", re.sub(r"(anchors\[\d+\]).*", r"\1", part)) for status, part, _ in checks}
    for kind in required:
        names = [f"{name and name + ': '}anchors[{index}]" for name, bundle in bundles
                 for index, receipt in enumerate(bundle.value["anchors"]) if receipt["type"] == kind]
        fine = any((True, name) in whole and (False, name) not in whole for name in names)
        checks.append(("ok" if fine else "skip", f"require.{kind}", "asked for: a receipt that is checked in full here"))
    for check in checks:
        tell(*check)

def read(path: Path) -> Any:
    if not path.is_dir():
        return path.read_bytes()
    found = sorted(one for one in path.rglob("*") if one.is_symlink() or not one.is_dir())
    need(len(found) <= 10_000 and sum(one.stat().st_size for one in found) <= 1 << 30, "package", "10,000 files, 1 GiB")
    need(all(one.is_file() and not one.is_symlink() for one in found), "package", "files and folders only")
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in found}

def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path, help="a bundle, or the folder of a report package")
    parser.add_argument("--policy", type=Path, help="the keys that you trust")
    parser.add_argument("--require-anchor", action="append", default=[], metavar="TYPE", help="an anchor that must be checked")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    asked = parser.parse_args()
    checks: list[tuple[str, str, str]] = []
    try:
        policy = Policy(asked.policy.read_bytes()) if asked.policy else None
        verify_files(read(asked.path), policy, asked.require_anchor, lambda *check: checks.append(check))
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verdict = judged(checks)
    if asked.json:
        print(json.dumps({"verdict": verdict, "checks": [dict(zip(("status", "name", "detail"), check)) for check in checks]}))
        return CODES[verdict]
    print(verdict)
    for status, name, detail in checks:
        text = f"{name}: {detail}"
        print(f"  {WORDS[status]:12}{text if text.isprintable() else ascii(text)}")
    return CODES[verdict]

if __name__ == "__main__":
    sys.exit(main())
