"""Long work shows how far it is: a bar with rate and time left on a terminal, else a line now and then; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from witnz.cli.output import Output, is_terminal
from witnz.cli.text import count, printable

Advance = Callable[[int], None]
LINE_EVERY_S: Final = 10.0


@contextmanager
def progress(
    output: Output, what: str, total: int | None = None, unit: str = "row", *, line_every_s: float = LINE_EVERY_S
) -> Iterator[Advance]:
    """A function to be told how many of ``total`` (None: nobody knows) are done.  With ``-q`` nothing is shown."""
    if output.quiet:
        yield lambda done: None
    elif is_terminal(sys.stderr):
        with _bar(what, total) as advance:
            yield advance
    else:
        yield _lines(output, what, total, unit, line_every_s)


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    shown = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn() if total else TimeElapsedColumn(),
    )
    with Progress(*shown, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(printable(what), total=total or None, rate="")
        begun = time.monotonic()

        def advance(done: int) -> None:
            seconds = max(time.monotonic() - begun, 0.001)
            bars.update(task, completed=done, total=max(total, done) if total else None, rate=f"{done / seconds:,.0f}/s")

        yield advance


def _lines(output: Output, what: str, total: int | None, unit: str, every_s: float) -> Advance:
    begun = told = time.monotonic()

    def advance(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= every_s:
            told = now
            of = f" of about {total:,}" if total else ""
            output.note(f"{printable(what)}: {count(done, unit)}{of}, {done / (now - begun):,.0f}/s")

    return advance
