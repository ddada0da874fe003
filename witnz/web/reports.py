"""Evidence packages over HTTP: asked for with POST, fetched file by file with GET.  The journal says who asked."""

from __future__ import annotations

from typing import Any

from witnz.core.canonical import canonical
from witnz.errors import FormatError
from witnz.node.reporting import asked_from
from witnz.web.asked import Asked, check_members
from witnz.web.reads import Answer, Raw, Site
from witnz.web.streams import Tell, Work


def make(site: Site, asked: Asked) -> Work:
    """``{"standard", "from", "to", "lang"}``: make a package; its files are fetched under the ``id`` of the answer."""
    check_members(asked.body, frozenset({"standard", "from", "to"}), frozenset({"lang"}))
    wanted = asked_from(asked.body)
    about = {"standard": wanted.standard, "from": wanted.begin, "to": wanted.end, "lang": wanted.lang}

    def work(tell: Tell) -> dict[str, Any]:
        tell(0)
        _journal(site, asked, "report", about)
        return site.node.reports.make(wanted, tell)

    return work


def sample(site: Site, asked: Asked) -> Work:
    """``{"population", "n", "seed", "from", "to"}``: draw a sample."""
    names = ("population", "seed", "from", "to")
    check_members(asked.body, frozenset({*names, "n"}))
    texts, number = [asked.body[name] for name in names], asked.body["n"]
    if not all(isinstance(text, str) and len(text) <= 256 for text in texts) or type(number) is not int:
        raise FormatError("population, seed, from, to: expected texts; n: expected a whole number")
    population, seed, begin, end = texts

    def work(tell: Tell) -> dict[str, Any]:
        tell(0)
        about = {"population": population, "seed": seed, "from": begin, "to": end, "n": number}
        _journal(site, asked, "report.sample", about)
        return site.node.reports.sample(population, number, seed, begin, end)

    return work


def drill(site: Site, asked: Asked) -> Answer:
    """``{"attack", "result", "detected_s"}``: journal an exercise: what was done, what came of it, how soon it was noticed."""
    check_members(asked.body, frozenset({"attack", "result", "detected_s"}))
    _journal(site, asked, "report.drill", {"attack": str(asked.body["attack"])[:256]})
    return {"schema": "witnz.drill/1", "seq": site.node.journal.propose("drill", dict(asked.body))}


def file(site: Site, asked: Asked) -> Answer:
    """One file of a package or sample."""
    path = site.node.reports.file(asked.path["report"], asked.path["file"])
    return Raw(path.read_bytes(), "application/octet-stream")


def _journal(site: Site, asked: Asked, action: str, what: dict[str, Any]) -> None:
    who = {"by": asked.peer.name, "uid": asked.peer.uid, "via": "socket"}
    site.node.journal.propose("operator", {"action": action, "detail": canonical({**what, **who}).decode()})
