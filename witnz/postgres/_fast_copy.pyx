# cython: language_level=3, boundscheck=False, wraparound=False
"""Everything that libpq holds of a COPY, or gets while one waits, in one call: what :mod:`witnz.postgres.copyout` and :mod:`witnz.postgres.stream` else
ask psycopg for a row at a time.

The functions are those of the very libpq that psycopg's own extension is linked with, found through it, on the connection that
psycopg made: ``PQgetCopyData(conn, &buffer, async = 1)`` never blocks and reads no socket (PostgreSQL documentation 34.10
"Functions Associated with the COPY Command").  Where that can not be found, importing this module raises ImportError.
Whoever calls makes sure that the connection is open and that no other thread uses it meanwhile.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy

from psycopg import pq


cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *, unsigned long, int)
    short POLLIN

ctypedef int (*consume_input_t)(void *) noexcept nogil
ctypedef int (*get_copy_data_t)(void *, char **, int) noexcept nogil
ctypedef void (*free_t)(void *) noexcept nogil

cdef get_copy_data_t get_copy_data
cdef consume_input_t consume_input
cdef free_t free_memory

cdef int XLOGDATA = 0x77  # w
cdef Py_ssize_t HEADER_BYTES = 25  # type, start, end of WAL, clock


cdef int _find() except -1:
    global get_copy_data, consume_input, free_memory
    if pq.__impl__ not in ("binary", "c"):
        raise ImportError(f"psycopg's implementation {pq.__impl__} is linked with no libpq")
    if pq.__impl__ == "binary":
        from psycopg_binary import pq as linked
    else:
        from psycopg_c import pq as linked
    path = linked.__file__.encode()
    cdef void *handle = dlopen(<const char *>path, RTLD_LAZY)
    if handle == NULL:
        raise ImportError("psycopg's extension can not be opened")
    get_copy_data = <get_copy_data_t>dlsym(handle, b"PQgetCopyData")
    consume_input = <consume_input_t>dlsym(handle, b"PQconsumeInput")
    free_memory = <free_t>dlsym(handle, b"PQfreemem")
    if get_copy_data == NULL or consume_input == NULL or free_memory == NULL:
        raise ImportError("psycopg's extension has no PQgetCopyData")
    return 0


_find()


def copied(uintptr_t connection, Py_ssize_t max_bytes):
    """(data, told): the rows that are there, concatenated, until they hold ``max_bytes`` or more; what libpq said last.

    ``told``: > 0 there may be more, 0 no more now, -1 the COPY has ended, -2 an error, which the connection's message tells.
    """
    return _gathered(connection, -1, max_bytes, 0)


def drained(uintptr_t connection, int socket, Py_ssize_t max_bytes, int wait_ms):
    """:func:`copied`, and then what the connection's ``socket`` has, as long as more comes within ``wait_ms``.

    ``told`` 0: nothing came for so long.
    """
    return _gathered(connection, socket, max_bytes, wait_ms)


cdef _gathered(uintptr_t connection, int socket, Py_ssize_t max_bytes, int wait_ms):
    cdef void *conn = <void *>connection
    cdef char *held = NULL
    cdef char *grown
    cdef char *row
    cdef Py_ssize_t used = 0, room = 0
    cdef int told = 1
    cdef pollfd readable = pollfd(socket, POLLIN, 0)
    if conn == NULL:
        raise ValueError("the connection is closed")
    try:
        with nogil:
            while used < max_bytes:
                told = get_copy_data(conn, &row, 1)
                if told == 0 and socket >= 0 and poll(&readable, 1, wait_ms) > 0:
                    if consume_input(conn):
                        continue
                    told = -2
                if told <= 0:
                    break
                if used + told > room:
                    room = 2 * (used + told) + 65536
                    grown = <char *>realloc(held, room)
                    if grown == NULL:
                        free_memory(row)
                        with gil:
                            raise MemoryError
                    held = grown
                memcpy(held + used, row, told)
                used += told
                free_memory(row)
        return PyBytes_FromStringAndSize(held, used) if used else b"", told
    finally:
        free(held)


def lines_in(bytes data not None):
    """How many newlines there are."""
    cdef const char *at = PyBytes_AS_STRING(data)
    cdef const char *end = at + PyBytes_GET_SIZE(data)
    cdef Py_ssize_t count = 0
    with nogil:
        at = <const char *>memchr(at, 10, end - at)
        while at != NULL:
            count, at = count + 1, at + 1
            at = <const char *>memchr(at, 10, end - at)
    return count


def received(uintptr_t connection, list payloads not None, Py_ssize_t max_messages, Py_ssize_t max_bytes):
    """(bytes, told, other): append what the XLogData messages that are there carry to ``payloads``, until that has
    ``max_messages`` or these messages have ``max_bytes`` or more; the bytes they had, what libpq said last (:func:`copied`), and
    the first message that is no XLogData or an empty one, whole, if any: nothing behind it was taken.
    """
    cdef void *conn = <void *>connection
    cdef char *message
    cdef Py_ssize_t taken = 0, count = len(payloads)
    cdef int told = 1
    if conn == NULL:
        raise ValueError("the connection is closed")
    while count < max_messages and taken < max_bytes:
        told = get_copy_data(conn, &message, 1)
        if told <= 0:
            break
        try:
            if told <= HEADER_BYTES or message[0] != XLOGDATA:
                return taken, told, PyBytes_FromStringAndSize(message, told)
            payloads.append(PyBytes_FromStringAndSize(message + HEADER_BYTES, told - HEADER_BYTES))
        finally:
            free_memory(message)
        taken += told
        count += 1
    return taken, told, None
