# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The functions of :mod:`witnz.core._pure` in C: same signatures, same results, tested against it.

Independent short messages are hashed eight at a time (``_sha256_lanes.h``) with the interpreter's lock released, so that a scan
and the capture can use two cores.  Long messages, and the chain, go through the SHA-256 of the OpenSSL that Python's own hashlib
is linked with, by its block interface (``SHA256_Init``, ``SHA256_Update``, ``SHA256_Final``; openssl.org/docs, SHA256_Init(3)).
Where that can not be found, importing this module raises ImportError and the plain one is used.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import _hashlib


cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY

cdef extern from "_sha256_lanes.h" nogil:
    enum:
        LANES
        LANE_MAX_BYTES
    ctypedef struct message_t:
        const uint8_t *prefix
        const uint8_t *body
        size_t prefix_size
        size_t body_size
        uint8_t *out
    ctypedef void (*lanes_function)(const message_t *, int) noexcept nogil
    lanes_function choose_lanes()

cdef struct Context:  # SHA256_CTX of openssl/sha.h is 112 bytes
    unsigned char state[256]

ctypedef int (*init_t)(Context *) noexcept nogil
ctypedef int (*update_t)(Context *, const void *, size_t) noexcept nogil
ctypedef int (*final_t)(unsigned char *, Context *) noexcept nogil

cdef init_t sha_init
cdef update_t sha_update
cdef final_t sha_final
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


cdef lanes_function hash_lanes = choose_lanes()


cdef void _hash_all(message_t *messages, Py_ssize_t count) noexcept nogil:
    """Hash them all, short ones in lanes."""
    cdef message_t together[LANES]
    cdef int used = 0
    cdef Py_ssize_t i
    for i in range(count):
        if messages[i].prefix_size + messages[i].body_size > LANE_MAX_BYTES:
            _hash(messages[i].prefix, messages[i].prefix_size, messages[i].body, messages[i].body_size, messages[i].out)
            continue
        together[used] = messages[i]
        used += 1
        if used == LANES:
            hash_lanes(together, used)
            used = 0
    if used:
        hash_lanes(together, used)


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
            _hash_all(messages, count)  # the blinds, each where its row's hash will be
            for i in range(count):
                messages[i].prefix = messages[i].out
                messages[i].prefix_size = 32
            _hash_all(messages, count)
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
                    messages[i].out = nodes + 32 * i  # written when all eight of its lanes were laid out, none before
                _hash_all(messages, count)
    finally:
        free(messages)
    return PyBytes_FromStringAndSize(<char *>nodes, 32)


def pack_partitions(hashes not None, list buffers not None):
    """See :func:`witnz.core._pure.pack_partitions`."""
    cdef const unsigned char *row
    cdef Py_ssize_t size
    cdef bytearray buffer
    if len(buffers) != 256:
        raise ValueError(f"expected 256 buffers, found {len(buffers)}")
    for hashed in hashes:
        row = _digest(hashed)
        buffer = <bytearray?>buffers[row[0]]
        size = PyByteArray_GET_SIZE(buffer)
        PyByteArray_Resize(buffer, size + 32)
        memcpy(PyByteArray_AS_STRING(buffer) + size, row, 32)
