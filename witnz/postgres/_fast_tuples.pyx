# cython: language_level=3, boundscheck=False, wraparound=False
"""Tuples of pgoutput as row lines, in C: column by column, every length bounded, as :func:`witnz.postgres.tuples.read_tuple`.

What is not a plain tuple of values and NULLs with nothing behind it is answered with None and goes the strict way in Python,
which also says what is wrong with it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef unsigned char ESCAPES[256]  # what follows the backslash; 0: the byte stands for itself; 1: refused
for _byte in range(256):
    ESCAPES[_byte] = 0
ESCAPES[0] = 1
for _byte, _letter in ((92, b"\\"), (8, b"b"), (12, b"f"), (10, b"n"), (13, b"r"), (9, b"t"), (11, b"v")):
    ESCAPES[_byte] = _letter[0]


cdef struct Span:
    const unsigned char *start
    Py_ssize_t size  # -1: NULL


cdef Py_ssize_t _read(const unsigned char *at, const unsigned char *end, int columns, Span *spans,
                      const unsigned char **behind) noexcept nogil:
    """Take a tuple apart; how long its line is, or -1 where it is not a plain one."""
    cdef Py_ssize_t size = columns - 1
    cdef Py_ssize_t length
    cdef int column
    cdef const unsigned char *stop
    if end - at < 2 or (at[0] << 8 | at[1]) != columns:
        return -1
    at += 2
    for column in range(columns):
        if at >= end:
            return -1
        if at[0] == 110:  # n
            spans[column].start = NULL
            spans[column].size = -1
            size += 2
            at += 1
            continue
        if at[0] != 116 or end - at < 5:  # t
            return -1
        length = (<Py_ssize_t>at[1] << 24) | (at[2] << 16) | (at[3] << 8) | at[4]
        at += 5
        if length > end - at:
            return -1
        spans[column].start = at
        spans[column].size = length
        stop = at + length
        size += length
        while at < stop:
            if ESCAPES[at[0]]:
                if at[0] == 0:
                    return -1
                size += 1
            at += 1
    behind[0] = at
    return size


cdef void _write(char *out, int columns, const Span *spans) noexcept nogil:
    cdef int column
    cdef const unsigned char *at
    cdef const unsigned char *stop
    for column in range(columns):
        if column:
            out[0] = 9
            out += 1
        if spans[column].size < 0:
            memcpy(out, b"\\N", 2)
            out += 2
            continue
        at = spans[column].start
        stop = at + spans[column].size
        while at < stop:
            if ESCAPES[at[0]]:
                out[0] = 92
                out[1] = ESCAPES[at[0]]
                out += 2
            else:
                out[0] = at[0]
                out += 1
            at += 1


def read_lines(run not None, int columns, int start):
    """The row line of the tuple at offset ``start`` of each message, which ends with it; None where only Python can tell.

    ``columns``: 1 to 65,535.
    """
    cdef list found = []
    cdef const unsigned char *text
    cdef const unsigned char *behind
    cdef Py_ssize_t size
    cdef bytes line
    if columns < 1 or columns > 65535 or start < 0:
        raise ValueError(f"expected 1 to 65535 columns, found {columns}")
    cdef Span *spans = <Span *>malloc(columns * sizeof(Span))
    if spans == NULL:
        raise MemoryError
    try:
        for message in run:
            if not PyBytes_CheckExact(message) or PyBytes_GET_SIZE(message) < start:
                found.append(None)
                continue
            text = <const unsigned char *>PyBytes_AS_STRING(message)
            size = _read(text + start, text + PyBytes_GET_SIZE(message), columns, spans, &behind)
            if size < 0 or behind != text + PyBytes_GET_SIZE(message):
                found.append(None)
                continue
            line = PyBytes_FromStringAndSize(NULL, size)
            _write(PyBytes_AS_STRING(line), columns, spans)
            found.append(line)
    finally:
        free(spans)
    return found
