# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The functions of :mod:`witnz.core._pure` in C: same signatures, same results, tested against it.

Independent short messages are hashed eight or sixteen at a time (``_sha256_lanes.h``) with the interpreter's lock released, so that a scan
and the capture can use two cores.  Long messages, and the chain, go through the SHA-256 of the OpenSSL that Python's own hashlib
is linked with, by its block interface (``SHA256_Init``, ``SHA256_Update``, ``SHA256_Final``; openssl.org/docs, SHA256_Init(3)).
Where that can not be found, importing this module raises ImportError and the plain one is used.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

import _hashlib


cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY

cdef extern from "_sha256_lanes.h" nogil:
    enum:
        MOST_LANES
        LANE_BLOCKS
        LANE_MAX_BYTES
    ctypedef struct message_t:
        const uint8_t *prefix
        const uint8_t *body
        size_t prefix_size
        size_t body_size
        uint8_t *out
    ctypedef void (*lanes_function)(const message_t *, int, int) noexcept nogil
    ctypedef struct hasher_t:
        int lanes
        lanes_function hash
        const char *name
    hasher_t choose_hasher(int)

cdef extern from "_packed_hashes.h" nogil:
    int sort_hashes(uint8_t *hashes, size_t count)

cdef struct Context:  # SHA256_CTX of openssl/sha.h is 112 bytes
    unsigned char state[256]

ctypedef int (*init_t)(Context *) noexcept nogil
ctypedef int (*update_t)(Context *, const void *, size_t) noexcept nogil
ctypedef int (*final_t)(unsigned char *, Context *) noexcept nogil

cdef init_t sha_init
cdef update_t sha_update
cdef final_t sha_final
cdef enum:
    PIECE = 256  # messages that are handed on at a time
cdef const char *HEX = b"0123456789abcdef"


cdef int _find() except -1:
    global sha_init, sha_update, sha_final
    path = (getattr(_hashlib, "__file__", None) or "").encode()  # built in: looked for in the interpreter itself
    cdef void *handle = dlopen(<const char *>path if path else NULL, RTLD_LAZY)
    if handle == NULL:
        raise ImportError("the library behind hashlib can not be opened")
    sha_init = <init_t>dlsym(handle, b"SHA256_Init")
    sha_update = <update_t>dlsym(handle, b"SHA256_Update")
    sha_final = <final_t>dlsym(handle, b"SHA256_Final")
    if sha_init == NULL or sha_update == NULL or sha_final == NULL:
        raise ImportError("the library behind hashlib has no SHA256_Init")
    return 0


_find()


cdef inline void _hash(const void *first, size_t first_size, const void *second, size_t second_size,
                       unsigned char *out) noexcept nogil:
    cdef Context context
    sha_init(&context)
    if first_size:
        sha_update(&context, first, first_size)
    if second_size:
        sha_update(&context, second, second_size)
    sha_final(out, &context)


cdef hasher_t hasher = choose_hasher(MOST_LANES)


def use_lanes(int most):
    """Hash at most so many messages at a time; the name of what is used then.  For tests: nothing else depends on it."""
    global hasher
    hasher = choose_hasher(most)
    return hasher.name.decode()


cdef void _hash_long(const message_t *message, int twice) noexcept nogil:
    cdef unsigned char blind[32]
    _hash(message.prefix, message.prefix_size, message.body, message.body_size, message.out)
    if twice:
        memcpy(blind, message.out, 32)
        _hash(blind, 32, message.body, message.body_size, message.out)


cdef void _hash_all(const message_t *messages, Py_ssize_t count, int twice = 0) noexcept nogil:
    """Hash them all, short ones in lanes, each beside others of as many blocks; ``twice``: see ``lanes_function``."""
    cdef message_t together[LANE_BLOCKS + 1][MOST_LANES]
    cdef int used[LANE_BLOCKS + 1]
    cdef size_t size
    cdef Py_ssize_t i
    cdef int blocks
    memset(used, 0, sizeof(used))
    for i in range(count):
        size = messages[i].prefix_size + messages[i].body_size
        if size > LANE_MAX_BYTES:
            _hash_long(&messages[i], twice)
            continue
        blocks = <int>((size + 72) // 64)
        together[blocks][used[blocks]] = messages[i]
        used[blocks] += 1
        if used[blocks] == hasher.lanes:
            hasher.hash(together[blocks], hasher.lanes, twice)
            used[blocks] = 0
    for blocks in range(1, LANE_BLOCKS + 1):
        if used[blocks]:
            hasher.hash(together[blocks], used[blocks], twice)


cdef message_t *_messages(Py_ssize_t count) except NULL:
    cdef message_t *messages = <message_t *>malloc((count or 1) * sizeof(message_t))
    if messages == NULL:
        raise MemoryError
    return messages


cdef inline void _hex(const unsigned char *raw, char *out) noexcept nogil:
    cdef int i
    for i in range(32):
        out[2 * i] = HEX[raw[i] >> 4]
        out[2 * i + 1] = HEX[raw[i] & 15]


cdef inline bytes _checked(object value, str what):
    if not PyBytes_CheckExact(value):
        raise TypeError(f"{what}: expected bytes, found {type(value).__name__}")
    return <bytes>value


cdef inline const unsigned char *_digest(object value) except NULL:
    if not PyBytes_CheckExact(value) or PyBytes_GET_SIZE(value) != 32:
        raise ValueError("expected a hash of 32 bytes")
    return <const unsigned char *>PyBytes_AS_STRING(value)


def row_hashes(bytes secret not None, lines not None):
    """See :func:`witnz.core._pure.row_hashes`."""
    cdef list given = list(lines)  # ours: nobody changes it while the lock is released
    cdef Py_ssize_t count = 0, i
    cdef list found = [None] * len(given)
    cdef message_t *messages = _messages(len(given))
    cdef bytes line, row
    try:
        for i in range(len(given)):
            if given[i] is None:
                continue
            line = _checked(given[i], "line")
            row = PyBytes_FromStringAndSize(NULL, 32)
            found[i] = row
            messages[count].prefix = <const uint8_t *>PyBytes_AS_STRING(secret)
            messages[count].prefix_size = PyBytes_GET_SIZE(secret)
            messages[count].body = <const uint8_t *>PyBytes_AS_STRING(line)
            messages[count].body_size = PyBytes_GET_SIZE(line)
            messages[count].out = <uint8_t *>PyBytes_AS_STRING(row)
            count += 1
        with nogil:
            _hash_all(messages, count, 1)
    finally:
        free(messages)
    return found


def entry_lines(first_seq, ops not None, keys not None, hashes not None, suffixes not None):
    """See :func:`witnz.core._pure.entry_lines`."""
    cdef unsigned long long seq = first_seq
    cdef char number[24]
    cdef Py_ssize_t digits, size
    cdef unsigned long long left
    cdef char *out
    cdef const unsigned char *row
    cdef bytes line
    cdef list found = []
    for op, key, hashed, suffix in zip(ops, keys, hashes, suffixes, strict=True):
        _checked(op, "op")
        _checked(key, "key")
        _checked(suffix, "suffix")
        digits, left = 0, seq
        while left or digits == 0:
            digits += 1
            number[24 - digits] = 48 + <char>(left % 10)
            left //= 10
        size = 2 + digits + 1 + PyBytes_GET_SIZE(op) + 1 + PyBytes_GET_SIZE(key) + 1 + PyBytes_GET_SIZE(suffix)
        size += 2 if hashed is None else 64
        line = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(line)
        memcpy(out, b"1\t", 2)
        out += 2
        memcpy(out, &number[24 - digits], digits)
        out += digits
        out = _cell(out, op)
        out = _cell(out, key)
        out[0] = 9
        if hashed is None:
            memcpy(out + 1, b"\\N", 2)
            out += 3
        else:
            row = _digest(hashed)
            _hex(row, out + 1)
            out += 65
        memcpy(out, PyBytes_AS_STRING(suffix), PyBytes_GET_SIZE(suffix))
        found.append(line)
        seq += 1
    return found


cdef inline char *_cell(char *out, bytes value) noexcept:
    """A TAB and the value; where the next goes."""
    out[0] = 9
    memcpy(out + 1, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return out + 1 + PyBytes_GET_SIZE(value)


def leaf_hashes(lines not None):
    """See :func:`witnz.core._pure.leaf_hashes`."""
    cdef list given = list(lines)
    cdef Py_ssize_t count = len(given), i
    cdef list found = []
    cdef message_t *messages = _messages(count)
    cdef bytes line, leaf
    try:
        for i in range(count):
            line = _checked(given[i], "line")
            leaf = PyBytes_FromStringAndSize(NULL, 32)
            found.append(leaf)
            messages[i].prefix = <const uint8_t *>b"\0"
            messages[i].prefix_size = 1
            messages[i].body = <const uint8_t *>PyBytes_AS_STRING(line)
            messages[i].body_size = PyBytes_GET_SIZE(line)
            messages[i].out = <uint8_t *>PyBytes_AS_STRING(leaf)
        with nogil:
            _hash_all(messages, count)
    finally:
        free(messages)
    return found


def chain_hashes(bytes parent_hex not None, leaves not None):
    """See :func:`witnz.core._pure.chain_hashes`."""
    cdef char both[128]
    cdef unsigned char raw[32]
    if PyBytes_GET_SIZE(parent_hex) != 64:
        raise ValueError("expected a parent hash of 64 hex digits")
    memcpy(both, PyBytes_AS_STRING(parent_hex), 64)
    for leaf in leaves:
        _hex(_digest(leaf), both + 64)
        _hash(both, 128, NULL, 0, raw)
        _hex(raw, both)
    return PyBytes_FromStringAndSize(both, 64)


def subtree_root(hashes not None):
    """See :func:`witnz.core._pure.subtree_root`."""
    cdef Py_ssize_t count = len(hashes), i
    if count < 1 or count & (count - 1):
        raise ValueError(f"expected a power of two of hashes, found {count}")
    cdef bytearray level = bytearray(32 * count)
    cdef unsigned char *nodes = <unsigned char *>PyByteArray_AS_STRING(level)
    cdef message_t *messages = _messages(count // 2)
    try:
        for i in range(count):
            memcpy(nodes + 32 * i, _digest(hashes[i]), 32)
        with nogil:
            while count > 1:
                count //= 2
                for i in range(count):
                    messages[i].prefix = <const uint8_t *>b"\1"
                    messages[i].prefix_size = 1
                    messages[i].body = nodes + 64 * i
                    messages[i].body_size = 64
                    messages[i].out = nodes + 32 * i  # written when all of its lanes were laid out, none before
                _hash_all(messages, count)
    finally:
        free(messages)
    return PyBytes_FromStringAndSize(<char *>nodes, 32)


def packed_row_hashes(bytes secret not None, bytes lines not None):
    """See :func:`witnz.core._pure.packed_row_hashes`."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(lines)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(lines)
    cdef const uint8_t *newline
    cdef message_t together[PIECE]
    cdef Py_ssize_t count = 0, used
    cdef const uint8_t *prefix = <const uint8_t *>PyBytes_AS_STRING(secret)
    cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(secret)
    cdef bytes found
    cdef uint8_t *out
    if at < end and (end - 1)[0] != 10:
        raise ValueError("expected row lines with a newline behind each")
    with nogil:
        newline = at
        while newline < end:
            newline = <const uint8_t *>memchr(newline, 10, end - newline) + 1
            count += 1
    found = PyBytes_FromStringAndSize(NULL, 32 * count)
    out = <uint8_t *>PyBytes_AS_STRING(found)
    if prefix_size != 32:
        raise ValueError(f"expected a secret of 32 bytes, found {prefix_size}")
    with nogil:
        while at < end:
            used = 0
            while used < PIECE and at < end:
                newline = <const uint8_t *>memchr(at, 10, end - at)
                together[used] = message_t(prefix, at, prefix_size, newline - at, out)
                at, out, used = newline + 1, out + 32, used + 1
            _hash_all(together, used, 1)
    return found


def hash_slices(bytes prefix not None, bytes packed not None, Py_ssize_t width):
    """See :func:`witnz.core._pure.hash_slices`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed), count, used
    if width < 1 or size % width:
        raise ValueError(f"expected slices of {width} bytes, found {size} bytes")
    count = size // width
    cdef bytes found = PyBytes_FromStringAndSize(NULL, 32 * count)
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(prefix)
    cdef Py_ssize_t start_size = PyBytes_GET_SIZE(prefix)
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(found)
    cdef message_t together[PIECE]
    with nogil:
        while count:
            used = 0
            while used < PIECE and count:
                together[used] = message_t(start, at, start_size, width, out)
                at, out, used, count = at + width, out + 32, used + 1, count - 1
            _hash_all(together, used)
    return found


def pack_partitions(bytes packed not None, list buffers not None):
    """See :func:`witnz.core._pure.pack_partitions`."""
    cdef Py_ssize_t count = _count(packed), i
    cdef const uint8_t *rows = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef Py_ssize_t sizes[256]
    cdef uint8_t *ends[256]
    cdef bytearray buffer
    cdef int first_byte
    if len(buffers) != 256:
        raise ValueError(f"expected 256 buffers, found {len(buffers)}")
    memset(sizes, 0, sizeof(sizes))
    for i in range(count):
        sizes[rows[32 * i]] += 32
    for first_byte in range(256):
        if sizes[first_byte]:
            buffer = <bytearray?>buffers[first_byte]
            PyByteArray_Resize(buffer, PyByteArray_GET_SIZE(buffer) + sizes[first_byte])
            ends[first_byte] = <uint8_t *>PyByteArray_AS_STRING(buffer) + PyByteArray_GET_SIZE(buffer) - sizes[first_byte]
    for i in range(count):
        memcpy(ends[rows[32 * i]], rows + 32 * i, 32)
        ends[rows[32 * i]] += 32


def sort_packed(packed not None):
    """See :func:`witnz.core._pure.sort_packed`."""
    cdef const uint8_t[::1] given = packed
    cdef bytes found = PyBytes_FromStringAndSize(NULL, given.shape[0])
    cdef Py_ssize_t count = _count(found)
    cdef uint8_t *rows = <uint8_t *>PyBytes_AS_STRING(found)
    cdef int failed = 0
    if count:
        memcpy(rows, &given[0], 32 * count)
        with nogil:
            failed = sort_hashes(rows, count)
    if failed:
        raise MemoryError
    return found


def bucket_hashes(bytes packed not None):
    """See :func:`witnz.core._pure.bucket_hashes`."""
    cdef Py_ssize_t count = _count(packed), i = 0, last = 0
    cdef const uint8_t *rows = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef bytes found = PyBytes_FromStringAndSize(NULL, 32 * 256)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(found)
    cdef uint8_t prefixes[256][9]
    cdef message_t messages[256]
    cdef int bucket, byte
    with nogil:
        for bucket in range(256):
            last = i
            while i < count and rows[32 * i + 1] == bucket:
                i += 1
            prefixes[bucket][0] = 2
            for byte in range(8):
                prefixes[bucket][8 - byte] = <uint8_t>(<unsigned long long>(i - last) >> (8 * byte) & 255)
            messages[bucket] = message_t(&prefixes[bucket][0], rows + 32 * last, 9, 32 * (i - last), out + 32 * bucket)
        if i == count:
            _hash_all(messages, 256)
    if i < count:
        raise ValueError("expected hashes in ascending order of their second bytes")
    return found


def pick_slices(bytes packed not None, flags not None):
    """See :func:`witnz.core._pure.pick_slices`."""
    cdef const uint8_t[::1] chosen = flags
    cdef Py_ssize_t count = _count(packed), i, picked = 0
    if chosen.shape[0] != count:
        raise ValueError(f"expected {count} flags, found {chosen.shape[0]}")
    for i in range(count):
        picked += chosen[i] != 0
    cdef bytes found = PyBytes_FromStringAndSize(NULL, 32 * picked)
    cdef char *out = PyBytes_AS_STRING(found)
    for i in range(count):
        if chosen[i]:
            memcpy(out, PyBytes_AS_STRING(packed) + 32 * i, 32)
            out += 32
    return found


cdef Py_ssize_t _count(bytes packed) except -1:
    """How many hashes these are."""
    if PyBytes_GET_SIZE(packed) % 32:
        raise ValueError(f"packed hashes: expected a multiple of 32 bytes, found {PyBytes_GET_SIZE(packed)}")
    return PyBytes_GET_SIZE(packed) // 32
