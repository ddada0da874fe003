#!/usr/bin/env python3
"""Check what witnz hands out, on a computer of your own: a bundle (*.witnz.json), or a whole report package (its folder).

    python3 verify.py --policy policy.txt bundle.witnz.json          python3 verify.py --policy policy.txt the-package/

Needs Python 3.9 or later and nothing else; opens no connection.  The policy is the file with the keys that *you* trust: get it
from the operator through another channel than the evidence; keys inside the evidence are never believed.
Exit code: 0 VERIFIED, 3 TAMPERED, 4 INCONCLUSIVE (something asked for could not be checked), 2 not such a file at all.
Written from public specifications alone (RFC 9162, 8785, 8032; FIPS 186-5; DSSE; c2sp.org signed-note, tlog-checkpoint,
tlog-cosignature, tlog-policy; the Ethereum yellow paper) and the formats of witnz; it shares no code with witnz itself.
"""

# fmt: off
import argparse, base64, json, re, sys, time
from functools import lru_cache
from hashlib import sha256, sha512
from pathlib import Path

MAX_BYTES, MAX_INT = 64 << 20, (1 << 53) - 1
class Refused(Exception): """The file is not of its format: exit code 2."""
def need(holds, what):
    if not holds: raise Refused(f"not as its format says: {what}")

# -- JSON in its one spelling (RFC 8785) -----------------------------------------------------------------------------------------------
def canonical(value): return json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # members stand as they were read: in order
def number(digits): return int(digits) if len(digits) < 18 and abs(int(digits)) <= MAX_INT else need(False, "JSON: a number")
def members(pairs):
    names = [name.encode("utf-16-be") for name, _ in pairs]
    need(names == sorted(set(names)), "JSON: an object's members, each once and in order")
    return dict(pairs)
def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)
def parse_json(data, what, most=MAX_BYTES, end="\n"):  # The value of a canonical document, ``end`` after it, 32 brackets deep at most
    hooks = {"object_pairs_hook": members, **dict.fromkeys(("parse_int", "parse_float", "parse_constant"), number)}
    try:
        value = json.loads(data if len(data) <= most else need(False, f"{what}: {len(data)} bytes, at most {most}"), **hooks)
        need((canonical(value) + end).encode() == data and depth(value) <= 32, f"{what}: canonical JSON")
    except (ValueError, RecursionError) as error: raise Refused(f"{what}: {str(error)[:80]}") from None
    need(not re.search(rb"(?<!\\)(\\\\)*\\u0000", data), f"{what}: U+0000")
    return value
def unb64(text, size=None):
    data = base64.b64decode(text) if isinstance(text, str) and match("b64", f'"{text}"'.encode("utf-8", "replace")) else b""
    return data if data and size in (None, len(data)) else need(False, "base64")

# -- the grammar: canonical documents have one spelling each, so regular expressions over their bytes are enough -----------------------
# name definition ;; …  A definition is a regular expression, in which $name stands for another, or { the members of an object } as
# name:type, in their order.  A type is a name (where none is given: the member's own), name(a,b) for a to b bytes of it, =one|other,
# [items], [items]{a,b}; type? may be null; -list, -str and -dict are looked at elsewhere; a member with ~ may be missing.
GRAMMAR = r"""
bool true|false ;; int 0|[1-9][0-9]{0,15} ;; pos [1-9][0-9]{0,15} ;; typmod -?[0-9]{1,10} ;; xid [1-9][0-9]{0,19} ;; decimal "(0|$xid)" ;;
b32 "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=" ;; sig "[A-Za-z0-9+/]{85}[AQgw]==" ;; b64
"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?" ;; digits [0-9a-f]{64} ;; hash "$digits" ;; address
"[0-9a-f]{40}" ;; id "[0-9a-f]{32}" ;; hex "([0-9a-f]{2}){1,65536}" ;; text "(?:[^"\\]|\\u....|\\[^u]){0,4096}" ;; cell
([^\\\x08-\x0d\0]|\\[\\btnvfr]){0,4096} ;; finding "F-[0-9a-f]{12}" ;; node "[a-z0-9-]{1,32}" ;; cluster
"(?=[^"]{1,255}")(?!([^"]*/)?\.\.?(/|"))[a-z0-9._-]+(/[a-z0-9._-]+)*" ;; place "[a-z0-9][a-z0-9._-]{0,63}" ;; more %[89AB][0-9A-F] ;; ascii
%([01][1-9A-F]|10|2[0-9A-CEF]|3[A-F]|40|5[B-E]|60|7[B-F]) ;; two %(C[2-9A-F]|D.)$more ;; three %(E0%[AB].|E[1-9A-CEF]$more|ED%[89].)$more
;; four %(F0%[9AB].|F[1-3]$more|F4%8.)$more{2} ;; part ([A-Za-z0-9_-]|$ascii|$two|$three|$four)+ ;; table "(?=[^"]{1,1024}")$part\.$part"
;; half 0|[1-9A-F][0-9A-F]{0,7} ;; wal $half/$half ;; lsn "$wal" ;; clock ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z ;; leap
(?<=[02468][048]00-|[13579][26]00-|[0-9]{2}0[48]-|[0-9]{2}[2468][048]-|[0-9]{2}[13579][26]-)02-29 ;; date
(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])|$leap ;; moment
(?!0000)[0-9]{4}-$dateT$clock ;; time "$moment" ;; day "(?!0000)[0-9]{4}-$date"|$time ;; when $int|$time ;; snapshot
"$xid:$xid:($xid(,$xid)*)?" ;; votes \{$node:$sig(,$node:$sig){0,63}\} ;; changes \{$title:$change(,$title:$change){0,255}\} ;; class
"($row_class|$table_class|$violation|(schema|visibility|publication|identity|role|config|key)\.changed|change\.unapproved|$other)" ;;
row_class row\.(modified|deleted|inserted) ;; table_class table\.(replaced|dropped) ;; violation
violation\.(update|delete|truncate|reinsert) ;; other
slot\.lost|coverage\.gap|epoch\.restored|source\.unreachable|node\.(diverged|misbehaved|store-tampered|rolled-back)|$last ;; last
quorum\.lost|anchor\.(missing|altered|hidden|late)|checkpoint\.forked|clock\.skew ;; entry
1\t$pos\t(schema|$changed|delete|truncate)\t(\\N|\\H$digits|$cell(0,1024))\t(\\N|$digits)\t$wal\t(0|[1-9][0-9]{0,9})\t$moment\t$said ;;
changed baseline|insert|update ;; said (\\N|$cell(0,256))\t(\\N|$cell(0,60000))\t(\\N|$cell(0,8192)) ;; word $text(1,255) ;; title
$text(1,256) ;; label $text(0,256) ;; path $text(1,1024) ;; size $pos ;; generation $pos ;; n $pos ;; seq $pos ;; oid $int ;; at $time ;;
root $b32 ;; chain $hash ;; prev $hash ;; reason $text ;; digest $hash ;; created $time ;; nonce $id ;; timeline $pos ;; standard
$text(1,64) ;; rows $int ;; unresolved $int ;; secret_sha256 $hash ;; tool $label
;; bundle { anchors:-list checkpoint:-str consistency:-list created format:-str policy:-str records:-list rows:-list sha256:hash
tables:[secret] tool } ;; shown { proof:[b32] record:-dict } ;; older { checkpoint:-str proof:[b32] } ;; secret { generation secret:b32?
table verify:int? } ;; row { blind:b32? entry:-str generation line:-str? proof:[b32] schema:-str schema_proof:[b32] seal:int state? table }
;; state { bucket:[hash] proof:[b32] verify:int } ;; record { at body:-dict cluster:id n node prev seq sig type:-str } ;; head { chain
generation root size table } ;; auth { operator:title sig } ;; member { addr:word cosigner:path id:node identity:b32 } ;; database {
name:word system:decimal timeline } ;; person { key:b32 name:title } ;; change { from:text? to:text? } ;; rules { inserts_only:bool
require_intent:bool retain:bool } ;; window { first_bad:text? last_good:text? } ;; keys { columns:[word]{0,1600} form:=plain|hidden } ;;
previous { chain root size } ;; accepted { key:text? row:hash? seq? } ;; r_genesis { cluster database log_key:path members:[member]{1,64}
operators:[person]{0,256} quorum:pos } ;; r_member { action:=add|remove addr:word auth cosigner:path from_lsn:lsn id:node identity:b32
nonce } ;; r_key { action:=add|remove auth from_lsn:lsn key:text(1,4096) kind:=intent|operator|report|log name:title nonce } ;; r_config {
auth changes nonce weakens:bool } ;; r_open { generation secret_sha256 table } ;; r_cancel { generation reason table } ;; r_table { auth~
generation keys lsn mode:=append_only|state_integrity nonce~ oid:pos on_change:=alert|record previous? reason rules secret_sha256 snapshot
table votes } ;; r_seal { lsn part~:pos parts~:pos tables:[head]{1,10000} votes } ;; r_dissent { first_seq:pos lsn tables:[head]{1,10000} }
;; r_verify { findings:[finding] generation journal_size:pos lsn mode:=snapshot|rolling not_checked:[text] range:change? rows seconds:int
size snapshot state_expected:b32 state_found:b32 table unresolved verdict:=VERIFIED|TAMPERED|INCONCLUSIVE votes } ;; r_finding { class
explained_by:text? found:text? generation? id:finding key:text? lsn? recorded:text? seq? severity:=critical|high|medium|low|info table?
window xid:decimal? } ;; r_ack { finding reason } ;; r_accept { auth finding? generation? nonce reason rows:[accepted] table? } ;; r_erase
{ auth generation keys:[text]{1,70000} nonce reason table } ;; r_unprotect { auth nonce reason table } ;; r_prune { auth generation nonce
reason table } ;; r_gap { from_lsn:lsn reason tables:[table]{1,10000} to_lsn:lsn votes } ;; r_epoch { final:[head]{1,10000} part~:pos
parts~:pos reason switch_lsn:lsn system:decimal timeline votes } ;; r_anchor { digest receipt:-dict size type:text(1,64) } ;; r_repair {
finding result:text sql_sha256:hash? target:text } ;; r_operator { action:text detail:text } ;; r_drill { attack:text detected_s:int?
result:text } ;; r_report { from:day sha256:hash standard to:day } ;; receipt { digest size:int type:place } ;; a_basic { digest
note:text(0,67108864) size:int type:=basic } ;; a_evm { block_hash:hash block_number:int block_time:when chain_id:pos digest from:address
header:hex proof:[hex]{1,64} size:int tx:hash tx_index:int type:=evm } ;; a_rfc3161 { digest response:b64 roots:[text(1,1048576)]{0,16}
size:int type:=rfc3161 url:text(1,2048) } ;; a_s3 { bucket:word date:text(1,64) digest endpoint:text(0,2048) etag:label key:path
mode:=COMPLIANCE|GOVERNANCE retain_until:time sha256:hash size:int type:=s3 version_id:path } ;; a_opentimestamps { digest proof:b64
size:int type:=opentimestamps } ;; schema { columns:[column] identity:=d|f|i|n oid } ;; column { key:bool name:text(0,60000) typmod
typoid:int } ;; by_digest { sha256:hash } ;; envelope { payload:b64 payloadType:=application/vnd\.in-toto\+json signatures:[signature]{1,1}
} ;; signature { keyid:hash sig:b64 } ;; statement { _type:=https://in-toto\.io/Statement/v1 predicate:-dict predicateType:text
subject:[subject] } ;; subject { digest:by_digest name:path } ;; predicate { cluster:text cluster_id:id created evidence_sha256:hash
files:int from:day standard to:day tool } ;; intent { by:label hint:text key:text(0,8192) nonce sig tables:[table] xid:decimal }
"""
LINES = dict(line.split(None, 1) for line in re.split(r"\s;;\s", GRAMMAR.strip()))
@lru_cache(maxsize=None)
def expand(kind):  # The regular expression of a type
    if kind[-1] == "?": return f"(?:{expand(kind[:-1])}|null)"
    if kind[0] in "=-": return f'"(?:{kind[1:]})"'
    if kind[0] == "[":
        item, least, most = re.fullmatch(r"\[(.+)\](?:\{(\d+),(\d+)\})?", kind).groups()
        more = f"{{{max(int(least) - 1, 0)},{int(most) - 1}}}" if most else "*"
        return rf"\[(?:{expand(item)}(?:,{expand(item)}){more}){'' if int(least or 0) else '?'}\]"
    name, _, limits = kind.partition("(")
    line, text = LINES[name].replace("0,4096", limits[:-1] or "0,4096"), ""
    if line[0] != "{": return "(?:" + re.sub(r"\$([a-z_0-9]+(?:\(\d+,\d+\))?)", lambda found: expand(found[1]), line) + ")"
    for own, kind in (word.partition(":")[::2] for word in line[1:-1].split()):
        member = f'"{own.rstrip("?~")}":{expand(kind or own.rstrip("~"))},'
        text += f"(?:{member})?" if "~" in own else member
    return rf"\{{{text[:-1]}\}}"
def match(name, data): return re.compile(expand(name).encode(), re.DOTALL).fullmatch(data)
def fits(name, value):  # Refuse a value that is not as the grammar says; of members that are looked at elsewhere only the type counts
    need(isinstance(value, dict), name)
    types = {own: type(value[own]).__name__ for own in re.findall(r"(\w+):-", LINES[name]) if value.get(own) is not None}
    need(match(name, canonical({**value, **types}).encode()), name)

# -- records, receipts, entries: what no regular expression says -----------------------------------------------------------------------
def log_of(item): return item["table"], item["generation"]
def distinct(items):
    names = [log_of(item) if isinstance(item, dict) else item for item in items]
    return len(set(names)) == len(names)
def ascends(snapshot):
    low, high, *running = [int(xid) for xid in re.split("[:,]", snapshot) if xid]
    return low <= min([high, *running]) and [*running, high] == sorted({*running, high})
def in_parts(body): return ("part" in body) == ("parts" in body) and body.get("part", 0) <= body.get("parts", 0) != 1
DISTINCT = ("members", "id"), ("members", "identity"), ("members", "cosigner"), ("operators", "name")
RULES = {  # what the members of a record's body say of each other
    "genesis": lambda b: len(b["members"]) // 2 < b["quorum"] <= len(b["members"]) and Key(b["log_key"], 1).name == b["cluster"]
    and all(Key(one["cosigner"], 4).name == f"{b['cluster']}/nodes/{one['id']}" for one in b["members"])
    and all(distinct([one[own] for one in b[all_of]]) for all_of, own in DISTINCT),
    "member": lambda b: Key(b["cosigner"], 4).name.endswith(f"/nodes/{b['id']}"),
    "key": lambda b: Key(b["key"], 1) if b["kind"] == "log" else len(unb64(b["key"], None if b["kind"] == "report" else 32)) <= 3072,
    "table": lambda b: distinct(b["keys"]["columns"]) and ("auth" in b) == ("nonce" in b) and b["oid"] < 1 << 32 and ascends(b["snapshot"]),
    **dict.fromkeys(("seal", "epoch"), lambda b: distinct(b.get("tables") or b["final"]) and in_parts(b)),
    **dict.fromkeys(("dissent", "gap"), lambda b: distinct(b["tables"])),
    "verify": lambda b: distinct(b["findings"]) and (b["mode"] == "rolling") == (b["range"] is not None) and ascends(b["snapshot"]),
    "finding": lambda b: b["table"] is not None or b["generation"] is None,
    "accept": lambda b: b["generation"] is not None if b["table"] else b["generation"] is None is not b["finding"] and not b["rows"],
    "anchor": lambda b: check_receipt(b["receipt"]) is None and all(b["receipt"][one] == b[one] for one in ("type", "digest", "size")),
}
def check_record(record):
    fits("record", record)
    need(f"r_{record['type']}" in LINES and len(canonical(record).encode()) <= 65535, "record")
    fits(f"r_{record['type']}", record["body"])
    need(RULES.get(record["type"], bool)(record["body"]), record["type"])
    return record
def check_receipt(receipt):  # All members of a known type, the common three of any other
    need(isinstance(receipt, dict), "receipt")
    kind, common = f"a_{receipt.get('type')}", {own: receipt[own] for own in ("digest", "size", "type") if own in receipt}
    fits(kind if kind in LINES else "receipt", receipt if kind in LINES else common)
    need(Note(receipt["note"]) if kind == "a_basic" else kind != "a_rfc3161" or len(receipt["response"]) <= 1398104, "receipt")
def unescape(cell): return re.sub(r"\\(.)", lambda found: "\\\b\t\n\v\f\r"["\\btnvfr".index(found[1])], cell)
def is_row_line(line): return all(re.fullmatch(r"\\N|(?:[^\\\x08-\x0d\0]|\\[\\btnvfr])*", cell) for cell in line.split("\t"))
class Entry:  # A line of a table log.  ``columns``: names of the columns that a schema entry describes, where it lists them
    def __init__(self, line):
        need(match("entry", line.encode()) and len(line.encode()) <= 65535, "entry")
        cells = line.split("\t")
        self.line, self.columns, self.hidden = line, None, cells[3][2:] if cells[3].startswith("\\H") else None
        _, seq, op, key, row, _, xid, _, by, hint, intent = (None if cell[:2] in ("\\N", "\\H") else unescape(cell) for cell in cells)
        self.seq, self.op, self.key, self.row = int(seq), op, key, row and bytes.fromhex(row)
        need((key is None or is_row_line(key)) and self.seq <= MAX_INT and int(xid) < 1 << 32, "entry")
        need(key is row is self.hidden is None if op in ("schema", "truncate") else op != "baseline" or xid == "0", f"entry: {op}")
        need(hint is not None and by is intent is None if op == "schema" else len((hint or "").encode()) <= 4096, "entry: hint")
        told = parse_json(hint.encode(), "schema", 60_000, "") if op == "schema" else {}
        if op == "schema": fits("by_digest" if isinstance(told, dict) and told.keys() == {"sha256"} else "schema", told)
        if "columns" in told:
            self.columns = [column["name"] for column in told["columns"]]
            sizes = [told["oid"], *[size for one in told["columns"] for size in (one["typoid"], one["typmod"] + (1 << 31))]]
            need(all(0 <= size < 1 << 32 for size in sizes), "schema: 32 bits")
        said = parse_json(intent.encode(), "intent", 8192, "") if intent is not None else {"xid": "0"}
        if intent is not None: fits("intent", said)
        need(int(said["xid"]) < 1 << 64, "intent")

# -- trees, by the recursive definitions of RFC 9162 2.1 -------------------------------------------------------------------------------
def leaf_hash(data): return sha256(b"\0" + data).digest()
def node_hash(left, right): return sha256(b"\1" + left + right).digest()
def root_with(index, size, leaf, path):  # The root to which an inclusion path leads (2.1.3.1); None where it is too short or too long
    if not 0 <= index < size < 1 << 64 or bool(path) != (size > 1) or len(path) > 63: return None
    if size == 1: return leaf
    middle, rest, top = 1 << (size - 1).bit_length() - 1, path[:-1], path[-1]
    right = index >= middle
    below = root_with(index - middle, size - middle, leaf, rest) if right else root_with(index, middle, leaf, rest)
    return below and (node_hash(top, below) if right else node_hash(below, top))
def roots_with(old, new, known, path):  # Old and new root of a consistency path (2.1.4.1); ``known``: the old, while its tree is whole
    whole = [*path, *([known] if known else [])]
    if old == new: return (whole[0], whole[0]) if len(whole) == 1 else None
    if not 0 < old < new or not path or len(path) > 63: return None
    middle, rest, top = 1 << (new - 1).bit_length() - 1, path[:-1], path[-1]
    right = old > middle
    below = roots_with(old - middle, new - middle, None, rest) if right else roots_with(old, middle, known, rest)
    return below and ((node_hash(top, below[0]), node_hash(top, below[1])) if right else (below[0], node_hash(below[1], top)))

# -- elliptic curves: points of Ed25519 are (X, Y, Z, T), those of the other curves (x, y), or () for the neutral element --------------
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
def times(add, zero, factor, point):
    total = zero
    for bit in bin(factor)[2:]: total = add(add(total, total), point) if bit == "1" else add(total, total)
    return total
def ed_add(one, two):
    a, b = (one[1] - one[0]) * (two[1] - two[0]), (one[1] + one[0]) * (two[1] + two[0])
    c, d = 2 * D * one[3] * two[3], 2 * one[2] * two[2]
    return (b - a) * (d - c) % P, (d + c) * (b + a) % P, (d - c) * (d + c) % P, (b - a) * (b + a) % P
def ed_point(data):  # RFC 8032 5.1.3
    y, sign = int.from_bytes(data, "little") % 2**255 % P, data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    for x in (pow(square, (P + 3) // 8, P) * turn % P for turn in (1, pow(2, (P - 1) // 4, P))):
        if (x * x - square) % P == 0: return (x, y, 1, x * y % P) if x & 1 == sign else (-x % P, y, 1, -x * y % P)
ED_ZERO, ED_BASE = (0, 1, 1, 0), ed_point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
@lru_cache(maxsize=8192)
def ed25519(public, signature, message):  # RFC 8032 5.1.7
    point, s = ed_point(public), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or point is None or s >= L: return False
    k = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % L
    x, y, z, _ = ed_add(times(ed_add, ED_ZERO, s, ED_BASE), times(ed_add, ED_ZERO, k, (-point[0], point[1], 1, -point[3])))
    x, y = x * pow(z, -1, P) % P, y * pow(z, -1, P) % P
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]
class Curve:  # y² = x³ + ax + b over a prime field, and a point of prime order n
    def __init__(self, p, a, b, n, x, y): self.p, self.a, self.b, self.n, self.base = p, a, b, n, (x, y)
    def add(self, one, two):
        if not one or not two: return one or two
        if one[0] == two[0] and (one[1] + two[1]) % self.p == 0: return ()
        over, under = (3 * one[0] ** 2 + self.a, 2 * one[1]) if one == two else (two[1] - one[1], two[0] - one[0])
        slope = over * pow(under, -1, self.p)
        x = (slope**2 - one[0] - two[0]) % self.p
        return x, (slope * (one[0] - x) - one[1]) % self.p
    def sum(self, factor, other, point):  # ``factor`` times the base point and ``other`` times another
        return self.add(times(self.add, (), factor % self.n, self.base), times(self.add, (), other % self.n, point))
P256 = Curve(2**256 - 2**224 + 2**192 + 2**96 - 1, -3, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296, 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)
K256 = Curve(2**256 - 2**32 - 977, 0, 7, 2**256 - 432420386565659656852420866394968145599,
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798, 0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)
def p256_signed(public, signature, message):
    # FIPS 186-5 6.4.2 with SHA-256: a SubjectPublicKeyInfo of an uncompressed point, a signature in the one spelling of DER
    size = (signature + bytes(4))[3]
    number, head = rb"\x02(.)((?=[\1-\x7f]|\0[\x80-\xff]).{%d})", "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    found = re.fullmatch(rb"\x30(.)" + number % size + number % max(len(signature) - 6 - size, 1), signature, re.DOTALL)
    if not found or [one[0] for one in (found[1], found[2], found[4])] != [len(signature) - 2, size, len(found[5])]: return False
    r, s, x, y = (int.from_bytes(part, "big") for part in (found[3], found[5], public[-64:-32], public[-32:]))
    on_curve = public[:-64].hex() == head and max(x, y) < P256.p and (y * y - x**3 + 3 * x - P256.b) % P256.p == 0
    if not on_curve or not 0 < min(r, s) <= max(r, s) < P256.n: return False
    digest, w = int.from_bytes(sha256(message).digest(), "big"), pow(s, -1, P256.n)
    point = P256.sum(digest * w, r * w, (x, y))
    return bool(point) and point[0] % P256.n == r

# -- Ethereum: Keccak-256, RLP, the trie, who sent a transaction -----------------------------------------------------------------------
ROUNDS, register = [0] * 24, 1
for bit in range(168):  # the constants of the 24 rounds come out of a shift register, seven bits each
    ROUNDS[bit // 7] |= (register & 1) << (1 << bit % 7) - 1
    register = register << 1 ^ (0x171 if register & 0x80 else 0)
def keccak256(data):
    mask, state, padded = (1 << 64) - 1, [0] * 25, bytearray(data + b"\1" + bytes(-(len(data) + 1) % 136))
    padded[-1] |= 0x80
    for start in range(0, len(padded), 136):
        for lane in range(17): state[lane] ^= int.from_bytes(padded[start + 8 * lane:start + 8 * lane + 8], "little")
        for constant in ROUNDS:
            c = [state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20] for x in range(5)]
            state = [lane ^ c[i % 5 - 1] ^ (c[(i + 1) % 5] << 1 & mask | c[(i + 1) % 5] >> 63) for i, lane in enumerate(state)]
            x, y, moved = 1, 0, state[1]
            for t in range(1, 25):
                x, y, turn = y, (2 * x + 3 * y) % 5, t * (t + 1) // 2 % 64
                state[x + 5 * y], moved = (moved << turn | moved >> 64 - turn) & mask, state[x + 5 * y]
            state = [lane ^ (~state[i - i % 5 + (i + 1) % 5] & state[i - i % 5 + (i + 2) % 5]) for i, lane in enumerate(state)]
            state[0] ^= constant
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])
def shortest(value): return value.to_bytes(32, "big").lstrip(b"\0")
def to_rlp(item):  # Of bytes, numbers and lists of them
    data = b"".join(map(to_rlp, item)) if isinstance(item, list) else shortest(item) if isinstance(item, int) else item
    base, width = 0xC0 if isinstance(item, list) else 0x80, shortest(len(data)) if len(data) > 55 else b""
    if base == 0x80 and len(data) == 1 and data[0] < 0x80: return data
    return bytes([base + (55 + len(width) if width else len(data))]) + width + data
def rlp(data, start, depth=0):  # The item at ``start`` (bytes, or a list of items) and where it ends, in any spelling
    need(start < len(data) and (depth < 16 or data[start] < 0xC0), "RLP")
    first, items, is_list = data[start], [], data[start] >= 0xC0
    if first < 0x80: return data[start:start + 1], start + 1
    length, width = first % 64, max(first % 64 - 55, 0)
    start, length = start + 1 + width, int.from_bytes(data[start + 1:start + 1 + width], "big") if width else length
    end = start + length
    need(end <= len(data), "RLP")
    while is_list and start < end:
        item, start = rlp(data, start, depth + 1)
        items.append(item)
    return (items if is_list else data[start:end]), end
def rlp_list(data, lengths):  # The items of a list, in its only spelling
    items = rlp(data, 0)[0]
    return items if isinstance(items, list) and len(items) in lengths and to_rlp(items) == data else need(False, "RLP")
def rlp_number(item): return need(isinstance(item, bytes) and len(item) <= 32 and item[:1] != b"\0", "RLP") or int.from_bytes(item, "big")
def in_trie(root, index, proof):  # The value under rlp(index) in a Merkle-Patricia trie; the proof is its nodes, all of them used
    path, child, nodes, ends = to_rlp(index).hex(), root, list(proof), False
    while not ends:
        if not isinstance(child, list):
            need(nodes and keccak256(nodes[0]) == child, "trie: the node that the one above names")
            child = rlp_list(nodes.pop(0), (2, 17))
        if len(child) == 17:
            child, path, ends = (child[int(path[0], 16)], path[1:], False) if path else (child[16], "", True)
            continue
        found = re.fullmatch("(?:[02]0|[13])(.*)", child[0].hex()) if len(child) == 2 and isinstance(child[0], bytes) else None
        need(found and path.startswith(found[1]) and (child[0][0] > 31 or found[1]), "trie: the way to this transaction")
        child, path, ends = child[1], path[len(found[1]):], child[0][0] > 31
    need(not path and not nodes and isinstance(child, bytes) and child, "trie: its end")
    return child
def check_evm(receipt):  # Refused where the receipt does not prove that its sender put the digest into its block
    block, address, told = bytes.fromhex(receipt["header"]), bytes.fromhex(receipt["from"]), receipt["block_time"]
    header = [one if isinstance(one, bytes) else need(False, "block: its members") for one in rlp_list(block, range(15, len(block)))]
    seconds = rlp_number(header[11])
    when = seconds if isinstance(told, int) else time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(min(seconds, 253402300799)))
    need([keccak256(block).hex(), rlp_number(header[8]), when] == [receipt["block_hash"], receipt["block_number"], told], "block")
    signed = in_trie(header[4], receipt["tx_index"], [bytes.fromhex(node) for node in receipt["proof"]])
    kind = signed[0] if signed[0] < 0xC0 else 0
    need(keccak256(signed).hex() == receipt["tx"] and kind < 3, "transaction: its hash and type")
    *items, v, r, s = rlp_list(signed[kind > 0:], (9, 11, 12)[kind:kind + 1])
    v, r, s = rlp_number(v), rlp_number(r), rlp_number(s)
    chain, parity = (rlp_number(items[0]), v) if kind else divmod(v - 35, 2)
    y = pow(r**3 + 7, (K256.p + 1) // 4, K256.p)
    fine = 0 < chain < 1 << 64 and parity in (0, 1) and 0 < r < K256.n and 0 < s <= K256.n // 2 and (y * y - r**3 - 7) % K256.p == 0
    need(fine and rlp_number(items[kind > 0]) < 1 << 64, "transaction: its chain, signature and nonce")
    message = bytes([kind]) + to_rlp(items) if kind else to_rlp([*items, chain, b"", b""])
    inverse, point = pow(r, -1, K256.n), (r, y if y & 1 == parity else K256.p - y)
    public = K256.sum(-int.from_bytes(keccak256(message), "big") * inverse, s * inverse, point)
    said = [chain, keccak256(b"".join(part.to_bytes(32, "big") for part in public))[12:], *items[3 + kind:6 + kind]]
    need(said == [receipt["chain_id"], address, address, b"", bytes.fromhex(receipt["digest"])], "transaction: who sent what to whom")

# -- signed notes, checkpoints, policies (c2sp.org) ------------------------------------------------------------------------------------
NAME = r"[^\0-\x20+\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]+"
ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
SMALL_ORDER = (0, 1, ORDER_8, P - ORDER_8, P - 1, P, P + 1)  # a "key" there fits many messages
class Key:  # A verifier key: name+id+base64(kind, public key); kind 1 signs notes, kind 4 cosigns
    def __init__(self, text, *kinds):
        self.name, given, encoded = [*text.split("+", 2), "", ""][:3]
        data = unb64(encoded, 33)
        self.public, y = data[1:], int.from_bytes(data[1:], "little") % 2**255
        fine = re.fullmatch(NAME, self.name) and len(text) <= 1024 and data[0] in kinds and y not in SMALL_ORDER
        need(fine and given == self.id(data[0]).hex(), "key")
    def id(self, kind): return sha256(f"{self.name}\n".encode() + bytes([kind]) + self.public).digest()[:4]
class Note:  # A signed note: ``text``, ``signatures`` as (name, key id, signature), ``cosigned``: a minute before the first cosignature
    def __init__(self, data):
        text, blank, lines = data.rpartition("\n\n")
        self.text, self.digest = text + "\n", sha256(f"{text}\n".encode()).hexdigest()
        found = [re.fullmatch(f"— ({NAME}) ([^ ]+)", line) for line in lines[:-1].split("\n")]
        need(blank and lines[-1:] == "\n" and all(found) and len(found) <= 100 and len(data) <= 1 << 21, "note: its signatures")
        need(len(self.text.encode()) <= 1 << 20 and not re.search("[\0-\x09\x0b-\x1f]", self.text), "note: its text")
        self.signatures = [(one[1], unb64(one[2])[:4], unb64(one[2])[4:] or need(False, "note: a signature")) for one in found]
        times = [at for _, _, one in self.signatures if len(one) == 72 and (at := int.from_bytes(one[:8], "big")) < 1 << 63]
        self.cosigned = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(min(max(min(times, default=0) - 60, 0), 253402300799)))
    def checkpoint(self):  # Origin, size, root
        found = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,19})\n([^\n]+)\n", self.text)
        need(found and int(found[2]) < 1 << 64, "checkpoint")
        return found[1], int(found[2]), unb64(found[3], 32)
    def signed_by(self, key, kind):  # None: no signature names the key.  False: one does, and is not by it
        own = [signature for name, given, signature in self.signatures if (name, given) == (key.name, key.id(kind))]
        return all(self.fits(key, kind, signature) for signature in own) if own else None
    def fits(self, key, kind, signature):
        if kind == 1: return ed25519(key.public, signature, self.text.encode())
        seconds = int.from_bytes(signature[:8], "big")
        message = f"cosignature/v1\ntime {seconds}\n{self.text}".encode()
        return len(signature) == 72 and seconds < 1 << 63 and ed25519(key.public, signature[8:], message)
class Policy:  # The keys that somebody trusts: logs, witnesses by name, groups as (threshold, members) by name, the quorum's name
    def __init__(self, data):
        need(len(data) <= 1 << 16 and re.fullmatch(rb"([\t\x20-\x7e\x80-\xff]*\n)*", data), "policy: lines of text")
        self.logs, self.witnesses, self.groups, quorums, used = [], {}, {}, [], []
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            kind, *words = [word for word in re.split("[ \t]+", line) if word] or ["#"]
            known = ["none", *self.witnesses, *self.groups]
            if kind == "log" and len(words) in (1, 2): self.logs.append(Key(words[0], 1))
            elif kind == "witness" and len(words) in (2, 3) and words[0] not in known: self.witnesses[words[0]] = Key(words[1], 1, 4)
            elif kind == "group" and len(words) > 2 and words[0] not in known:
                name, threshold, *names = words
                least, used = {"any": "1", "all": str(len(names))}.get(threshold, threshold), used + names
                fine = re.fullmatch("[1-9][0-9]{0,4}", least) and int(least) <= len(names) and distinct(used)
                need(fine and set(names) <= set(known[1:]), "policy: a group of names defined before, each once")
                self.groups[name] = int(least), names
            elif kind == "quorum" and len(words) == 1 and words[0] in known: quorums += words
            else: need(kind[0] == "#", f"policy: {line[:60]!r}")
        keys = [[key.public for key in some] for some in (self.logs, self.witnesses.values())]
        need(len(quorums) == 1 and distinct(keys[0]) and distinct(keys[1]), "policy: one quorum, every key once")
        self.quorum = quorums[0]
def judge(policy, note):  # All signatures that name a key of the policy verify, the log's is there, the quorum is met
    if policy is None: return [("skip", "signatures", "no policy was given, so nobody's signature was checked")]
    witnesses = [(name, note.signed_by(key, 4)) for name, key in policy.witnesses.items()]
    logs, origin = [(key.name, note.signed_by(key, 1)) for key in policy.logs], note.checkpoint()[0]
    bad = [name for name, fine in [*logs, *witnesses] if fine is False]
    if bad or (origin, True) not in logs: return [(False, "signatures", f"no signature by a log of the policy, or wrong ones: {bad}")]
    met = [name for name, fine in witnesses if fine]
    detail = f"cosigned by {len(met)} of {len(witnesses)} witnesses: {' '.join(met)}".encode("utf-8", "replace").decode()
    for group, (least, names) in policy.groups.items(): met += [group] if len(set(names) & set(met)) >= least else []
    return [(True, "signatures", f"signed by the log {origin}"), ("ok" if policy.quorum in ["none", *met] else "skip", "quorum", detail)]

# -- bundles; checks are (status, name, detail): ok or True, fail or False, skip (was asked for, so spoils the verdict), n/a -----------
ROW_OPS, UNREAD = ("baseline", "insert", "update"), {"s3": ".object", "rfc3161": ".token", "opentimestamps": ".proof"}
def raw(proof): return [unb64(one) for one in proof]
def under(name, checks): return [(status, name + part, why) for status, part, why in checks]
def found_nothing(body):
    return (body["verdict"], body["state_found"], body["unresolved"], body["findings"]) == ("VERIFIED", body["state_expected"], 0, [])
class Bundle:  # A bundle whose grammar holds; what it claims is unchecked until :meth:`check`
    def __init__(self, data, name):
        value = self.value = parse_json(data, name or "bundle")
        need(isinstance(value, dict) and value.get("format") == "witnz-bundle/1", "bundle: the format")
        rest = canonical({name: item for name, item in value.items() if name != "sha256"})
        need(value.get("sha256") == sha256(rest.encode()).hexdigest(), "bundle: sha256")
        fits("bundle", value)
        self.note, self.claimed = Note(value["checkpoint"]), Policy(value["policy"].encode())
        for kind, name in (("shown", "records"), ("row", "rows"), ("older", "consistency")):
            for item in value[name]: fits(kind, item)
        self.records = [check_record(item["record"]) for item in value["records"]]
        need(all((one["line"] is None) == (one["blind"] is None) for one in value["rows"]), "rows: line and blind together")
        need(all(is_row_line(one["line"] or "") for one in value["rows"]), "rows: a row line")
        self.rows = [(row, Entry(row["schema"]), Entry(row["entry"])) for row in value["rows"]]
        self.older = [(Note(one["checkpoint"]), raw(one["proof"])) for one in value["consistency"]]
        self.heads = [note.checkpoint() for note in (self.note, *[older for older, _ in self.older])]
        self.origin, self.size, self.root = self.heads[0]
        for receipt in value["anchors"]: check_receipt(receipt)
        self.clusters = {record["cluster"] for record in self.records}
        self.tables = {log_of(one["body"]): one["body"] for one in reversed(self.records) if one["type"] == "table"}
    def check(self, policy):  # Rules 2 to 8 of the format, in their order
        checks, good = [*under("checkpoint.", judge(policy, self.note)), *self.check_records()], {self.note.digest: self.size}
        for index, row in enumerate(self.rows): checks += under(f"rows[{index}].", self.check_row(*row))
        for index, table in enumerate(self.value["tables"]): checks += under(f"tables[{index}].", self.check_table(table))
        for index, ((note, proof), (origin, size, root)) in enumerate(zip(self.older, self.heads[1:])):
            empty = (size, root, proof) == (0, sha256(b"").digest(), [])
            fine = origin == self.origin and (empty or roots_with(size, self.size, root, proof) == (root, self.root))
            found = [*judge(policy, note), (fine, "proof", f"size {size} is {'' if fine else 'not '}a prefix of {self.size}")]
            checks += under(f"consistency[{index}].", found)
            if all(status is not False for status, _, _ in found): good[note.digest] = size
        for index, one in enumerate(self.value["anchors"]): checks += under(f"anchors[{index}]", self.check_anchor(one, good, policy))
        return checks
    def check_records(self):
        wrong = []
        for index, (record, item) in enumerate(zip(self.records, self.value["records"])):
            root, kind = root_with(record["seq"] - 1, self.size, leaf_hash(canonical(record).encode()), raw(item["proof"])), record["type"]
            if root != self.root: wrong.append((False, f"records[{index}]", f"the {kind} record is not in the checkpoint's tree"))
            if kind == "genesis" and record["body"]["cluster"] != self.origin: wrong.append((False, f"records[{index}]", "of another log"))
        if len(self.clusters) > 1: wrong.append((False, "records.cluster", "records of several clusters"))
        return wrong or [("ok" if self.records else "skip", "records", f"{len(self.records)} records are in the tree of size {self.size}")]
    def body(self, position, kind, log):  # That of the record at a position, if of this kind and, but for seals, of this log
        record = self.records[position] if position < len(self.records) else {"type": "none"}
        return record["body"] if record["type"] == kind and (kind == "seal" or log_of(record["body"]) == log) else None
    def check_row(self, row, schema, entry):
        log, state, heads = log_of(row), row["state"], (self.body(row["seal"], "seal", None) or {"tables": []})["tables"]
        heads = [(head["size"], unb64(head["root"])) for head in heads if log_of(head) == log]
        sealed = len(heads) == 1 and schema.op == "schema" and schema.seq < entry.seq and all(
            root_with(one.seq - 1, heads[0][0], leaf_hash(one.line.encode()), raw(proof)) == heads[0][1]
            for one, proof in ((entry, row["proof"]), (schema, row["schema_proof"])))
        yield sealed, "log", f"entry {entry.seq} of {log[0]} is {'' if sealed else 'not '}in the log as sealed"
        if entry.row is None and entry.op in ROW_OPS:
            yield "skip", "line", f"entry {entry.seq} is unresolved: its stream did not carry the whole row"
        elif row["line"] is not None: yield from self.check_line(row, schema, entry, log)
        if state is not None:
            body, bucket = self.body(state["verify"], "verify", log), [bytes.fromhex(one) for one in state["bucket"]]
            fine = body is not None and body["mode"] == "snapshot" and found_nothing(body) and body["size"] >= entry.seq
            fine = fine and entry.op in ROW_OPS and entry.row in bucket and bucket == sorted(bucket)
            if fine:
                leaf = leaf_hash(sha256(b"\2" + len(bucket).to_bytes(8, "big") + b"".join(bucket)).digest())
                root = root_with(int.from_bytes(entry.row[:2], "big"), 65536, leaf, raw(state["proof"]))
                fine = root == unb64(body["state_found"]) and all(one[:2] == entry.row[:2] for one in bucket)
            yield fine, "state", f"the row was {'' if fine else 'not shown to be '}in a table that was verified as recorded"
    def check_line(self, row, schema, entry, log):
        if sha256(unb64(row["blind"]) + row["line"].encode()).digest() != entry.row or schema.op != "schema":
            return [(False, "line", f"the row line shown is not the one recorded by entry {entry.seq}")]
        cells, columns = row["line"].split("\t"), schema.columns
        if columns is None: return [("skip", "line", "the columns are too many to be described in the log")]
        if len(cells) != len(columns): return [(False, "line", f"it has {len(cells)} columns, its schema entry {len(columns)}")]
        values, keys = dict(zip(columns, cells)), self.tables.get(log, {"keys": {"columns": [None]}})["keys"]
        key = "\t".join(values[one] for one in keys["columns"]) if set(keys["columns"]) <= values.keys() else None
        fine = key is not None and (entry.key, entry.hidden) == ((key, None) if keys["columns"] else (None, None))
        if key is not None and keys["columns"] and (keys["form"] == "hidden" or len(key.encode()) > 1024):
            secrets = [unb64(one["secret"]) for one in self.value["tables"] if one["secret"] and log_of(one) == log and self.opens(one)]
            hidden = [sha256(secret + b"\0" + key.encode()).hexdigest() for secret in secrets[-1:]]
            fine = "skip" if entry.hidden and not secrets else entry.hidden in hidden
        why = {True: "the key is the row line's", False: "the key is another row's", "skip": "hidden, and the table's secret not shown"}
        return [(True, "line", f"the row line is the one recorded by entry {entry.seq}"), (fine, "key", why[fine])]
    def opens(self, item):  # Whether the secret shown is the one that the table's record commits to
        return sha256(b"witnz/secret/1\n" + unb64(item["secret"])).hexdigest() == self.tables.get(log_of(item), {}).get("secret_sha256")
    def check_table(self, item):
        yield log_of(item) in self.tables, "record", f"{item['table']}, generation {item['generation']}"
        if log_of(item) not in self.tables: return
        if item["secret"]: yield self.opens(item), "secret", "the secret against its commitment"
        if item["verify"] is not None:
            body = self.body(item["verify"], "verify", log_of(item))
            doubtful = body is not None and body["verdict"] == "INCONCLUSIVE"
            yield "skip" if doubtful else body is not None and found_nothing(body), "verify", "the verification shown of the table"
    def check_anchor(self, receipt, good, policy):
        kind, size, known = receipt["type"], receipt["size"], f"a_{receipt['type']}" in LINES
        if good.get(receipt["digest"]) != size: return [(False, "", f"{kind}: for no checkpoint that is shown, or of another size")]
        checks = [(True if known else "skip", "", f"{kind}: for the checkpoint of size {size}; it covers no record beyond it")]
        if kind in UNREAD: checks.append(("n/a", UNREAD[kind], "not by this program: witnz verify --online, openssl ts, ots"))
        if kind == "basic":
            same = Note(receipt["note"]).digest == receipt["digest"]
            checks += under(".", judge(policy, Note(receipt["note"])) if same else [(False, "note", "it is of another checkpoint")])
        if kind != "evm": return checks
        try: check_evm(receipt)
        except Refused as error: return [*checks, (False, ".proof", str(error))]
        where = f"in block {receipt['block_number']}, 0x{receipt['block_hash']}, of chain {receipt['chain_id']}, {receipt['block_time']}"
        checks.append((True, ".proof", f"put there by 0x{receipt['from']} {where}"))
        return [*checks, ("n/a", ".trust", "whether sender and block are who and where they should be: NOT CHECKED")]

# -- report packages -------------------------------------------------------------------------------------------------------------------
OWN, PERIOD = "bundles/report.witnz.json", "bundles/period.witnz.json"
UNSIGNED = {"report.json", OWN, "SHA256SUMS"}  # what the signed list of files cannot hold: itself and what came after it
def part(value, *names):  # A member of a member of … of what should be objects
    for name in names: value = value.get(name) if isinstance(value, dict) else None
    return value
def check_package(files, bundles):  # The signed list of a package's files, by a key that stands in the journal; its evidence
    envelope = parse_json(files["report.json"], "report.json")
    fits("envelope", envelope)
    payload, signature = unb64(envelope["payload"]), envelope["signatures"][0]
    report, evidence = parse_json(payload, "report", end=""), parse_json(files["evidence.json"], "evidence")
    for value, kind in ((report, "report"), (evidence, "evidence")):
        fits("statement", value)
        need(value["predicateType"] == f"https://witnz.dev/{kind}/v1" and distinct([one["name"] for one in value["subject"]]), kind)
    about, inner, own = report["predicate"], evidence["predicate"], bundles[OWN]
    fits("predicate", about)
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()) if name != "SHA256SUMS")
    yield files.get("SHA256SUMS") == sums.encode(), "sums", f"whether SHA256SUMS lists exactly these {len(files) - 1} files"
    signed, listed = ({item["name"]: item["digest"]["sha256"] for item in value["subject"]} for value in (report, evidence))
    present = {name: digest for name, digest in digests.items() if name not in UNSIGNED}
    odd = sorted(name for name in {*signed, *present} if signed.get(name) != present.get(name))
    yield not odd, "files", f"{len(signed)} files were signed; missing, changed or added: {odd[:5]}"
    odd = sorted(name for name, one in bundles.items() if one.origin != about["cluster"] or one.clusters - {about["cluster_id"]})
    yield not odd, "log", f"{len(bundles)} bundles are of the report's journal; others: {odd[:5]}"
    keys = [one for bundle in (own, *bundles.values()) for one in bundle.records if one["type"] == "key"
            and one["body"]["kind"] == "report" and sha256(unb64(one["body"]["key"])).hexdigest() == signature["keyid"]]
    key = next((one for one in keys if one in own.records), None)
    yield key is not None and all(one["body"]["action"] == "add" for one in keys), "key", f"whether the journal adds {signature['keyid']}"
    message = f"DSSEv1 {len(envelope['payloadType'])} {envelope['payloadType']} {len(payload)} ".encode() + payload
    signed_by_it = key is not None and p256_signed(unb64(key["body"]["key"]), unb64(signature["sig"]), message)
    yield signed_by_it, "signature", "whether report.json is signed by that key (ECDSA P-256)"
    said = {**{name: about[name] for name in ("standard", "from", "to")}, "sha256": digests["report.json"]}
    after = [one for one in own.records if one["type"] == "report" and one["body"] == said and (not key or one["seq"] > key["seq"])]
    yield bool(after), "record", "whether the journal holds the digest of report.json"
    fine = all(part(inner, "report", name) == about[name] for name in ("standard", "from", "to")) and about["files"] == len(signed)
    fine = fine and (about["evidence_sha256"], about["cluster_id"]) == (digests["evidence.json"], part(inner, "cluster", "id"))
    yield fine and listed.items() <= signed.items(), "evidence", "whether evidence.json is of this report and files"
    main, period = bundles.get(PERIOD), inner.get("period")
    heads = [(note.checkpoint()[1], base64.b64encode(note.checkpoint()[2]).decode(), note.cosigned < about["from" if older else "to"])
             for older, note in enumerate([main.note, *[note for note, _ in main.older]] if main else [])]
    ends = [(part(period, end, "size"), part(period, end, "root"), True) for end in ("opening", "closing")]
    fine = ends[1] in heads[:1] and (period.get("opening", "") is None or ends[0] in heads[1:])
    yield fine, "period", f"whether opening and closing checkpoint are those of {PERIOD}, and cosigned before the period began and ended"
    gaps, told = part(inner, "coverage", "open_gaps"), part(inner, "continuity", "previous")
    yield "ok" if gaps == [] else "skip", "coverage", f"tables with an open gap: {gaps}"
    named = {name: part(told, name) for name in ("seq", *said)}
    fine = told is None or any({"seq": one["seq"], **one["body"]} == named for one in own.records)
    yield fine, "continuity", f"whether the journal holds the report before it: {part(told, 'sha256') if told else 'none is named'}"
    yield "n/a", "figures", "the figures of evidence.json against the records: by witnz verify --report"
    yield "n/a" if "report.pdf" in files else "fail", "pdf", "the signature inside report.pdf: by witnz verify --report or a PDF reader"

# -- the answer ------------------------------------------------------------------------------------------------------------------------
CODES, WORDS = {"VERIFIED": 0, "TAMPERED": 3, "INCONCLUSIVE": 4}, {"ok": "OK", "fail": "FAIL", "skip": "NOT CHECKED", "n/a": "NOT CHECKED"}
def judged(checks):
    found = {status for status, _, _ in checks}
    return "TAMPERED" if "fail" in found else "INCONCLUSIVE" if "skip" in found or "ok" not in found else "VERIFIED"
def verify_files(given, policy, required, tell):  # The bytes of a bundle; or the files of a package by name
    need(isinstance(given, bytes) or {"report.json", "evidence.json", OWN} <= given.keys(), "package: report.json, evidence.json, bundle")
    files = {"": given} if isinstance(given, bytes) else given
    bundles = {name: Bundle(data, name) for name, data in sorted(files.items()) if name == "" or name.endswith(".witnz.json")}
    checks = [] if "" in files else under("report.", check_package(files, bundles))
    for name, bundle in bundles.items(): checks += under(name and f"{name}: ", bundle.check(policy))
    checks = [({True: "ok", False: "fail"}.get(status, status), name, why) for status, name, why in checks]
    bad = {re.sub(r"(anchors\[\d+\]).*", r"\1", name) for status, name, _ in checks if status != "ok"}
    for kind in required:
        asked = {f"{name and name + ': '}anchors[{index}]" for name, bundle in bundles.items()
                 for index, receipt in enumerate(bundle.value["anchors"]) if receipt["type"] == kind}
        checks.append(("skip" if asked <= bad else "ok", f"require.{kind}", "asked for: a receipt that is checked in full here"))
    for check in checks: tell(*check)
def read(path):
    if not path.is_dir(): return path.open("rb").read(MAX_BYTES + 1)
    found = sorted(one for one in path.rglob("*") if one.is_symlink() or not one.is_dir())
    need(all(one.is_file() and not one.is_symlink() for one in found), "package: files and folders")
    need(len(found) <= 10_000 and sum(one.stat().st_size for one in found) <= 1 << 30, "package: 10,000 files, at most, of 1 GiB together")
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in found}
def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="a bundle, or the folder of a report package")
    parser.add_argument("--policy", type=Path, help="the keys that you trust")
    parser.add_argument("--require-anchor", action="append", default=[], metavar="TYPE", help="an anchor that must be checked")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    asked, checks = parser.parse_args(), []
    try:
        policy = Policy(asked.policy.read_bytes()) if asked.policy else None
        verify_files(read(asked.path), policy, asked.require_anchor, lambda *check: checks.append(check))
    except (Refused, OSError, UnicodeError) as error: sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    verdict, lines = judged(checks), [f"  {WORDS[status]:12}{name}: {why}" for status, name, why in checks]
    if asked.json: lines = [json.dumps({"verdict": verdict, "checks": [dict(zip(("status", "name", "detail"), one)) for one in checks]})]
    print("\n".join([verdict] * (not asked.json) + [line if line.isprintable() else ascii(line) for line in lines]))
    sys.exit(CODES[verdict])
if __name__ == "__main__": main()
