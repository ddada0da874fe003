"""What is waited for has a limit, and what goes on after it is named."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from witnz.ending import STUCK, end_futures, end_process, end_server, end_threads
from witnz.errors import WitnzError


def hang_here(until: threading.Event) -> None:
    until.wait(60)


def test_a_thread_that_does_not_end_is_named_with_where_it_stands() -> None:
    event = threading.Event()
    quick = threading.Thread(target=lambda: None, name="quick")
    stuck = threading.Thread(target=hang_here, args=(event,), name="sluggish")
    for thread in (quick, stuck):
        thread.start()
    try:
        with pytest.raises(WitnzError) as caught:
            end_threads(quick, stuck, limit_s=0.1)
        assert caught.value.code == STUCK
        assert "sluggish at " in caught.value.message and "quick" not in caught.value.message
    finally:
        event.set()
    end_threads(quick, stuck, threading.current_thread(), threading.Thread(target=print))


def test_work_in_a_pool_is_waited_for_and_what_was_cancelled_is_not() -> None:
    event = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running, waiting = pool.submit(hang_here, event), pool.submit(hang_here, event)
        assert waiting.cancel()
        with pytest.raises(WitnzError, match="an errand"):
            end_futures([running, waiting], "an errand", 0.1)
        end_futures([waiting], "an errand", 0.1)
        event.set()
        end_futures([running, waiting], "an errand")


def test_a_process_is_killed_and_collected() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert end_process(process) == -9


def test_a_server_whose_loop_hangs_is_named_and_its_port_is_free_again() -> None:
    serving, event = threading.Event(), threading.Event()

    class Hanging(ThreadingHTTPServer):
        def service_actions(self) -> None:
            serving.set()
            hang_here(event)

    server = Hanging(("127.0.0.1", 0), BaseHTTPRequestHandler)
    loop = threading.Thread(target=server.serve_forever, args=(0.01,), name="loop")
    loop.start()
    assert serving.wait(60)
    with pytest.raises(WitnzError) as caught:
        end_server(server, loop, limit_s=0.5)
    assert "loop at " in caught.value.message and server.fileno() == -1
    event.set()
    end_threads(loop)


def test_a_server_is_closed_with_its_loop() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    loop = threading.Thread(target=server.serve_forever)
    loop.start()
    end_server(server, loop)
    assert not loop.is_alive() and server.fileno() == -1
