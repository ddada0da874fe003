"""A real headless Chromium, Debian's, through playwright: where there is none, tests say so and are skipped."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# One answer a case: [exit code, [[status, name], …], error].  Bytes travel as base64, and every distinct policy once.
_BATCH = """async ([cases, policies, byHand]) => {
  const bytes = text => Uint8Array.from(atob(text), char => char.charCodeAt(0));
  window.witnz.options.byHand = byHand;
  const trusted = policies.map(bytes), answers = [];
  for (const [files, policy, anchors] of cases) {
    const known = policy === null ? null : trusted[policy];
    const result = typeof files === "string" ? await window.witnz.verifyBundle(bytes(files), known, anchors)
      : await window.witnz.verifyPackage(
        new Map(Object.entries(files).map(([name, text]) => [name, bytes(text)])), known, anchors);
    answers.push([result.code, result.checks.map(one => [one.status, one.name]), result.error ?? null]);
  }
  return answers;
}"""

# Single-byte changes of one file: [position, byte, …] -> [exit code, …].
_CHANGES = """async ([file, policy, changes, files]) => {
  const bytes = text => Uint8Array.from(atob(text), char => char.charCodeAt(0));
  const trusted = bytes(policy), original = bytes(file), codes = [];
  const folder = files === null ? null : Object.entries(files).map(([name, text]) => [name, bytes(text)]);
  for (const [position, byte, name] of changes) {
    const spoilt = original.slice();
    spoilt[position] = byte;
    const result = folder === null ? await window.witnz.verifyBundle(spoilt, trusted)
      : await window.witnz.verifyPackage(new Map([...folder, [name, spoilt]]), trusted);
    codes.push(result.code);
  }
  return codes;
}"""

Case = tuple["bytes | Mapping[str, bytes]", "bytes | None"]
"""A bundle, or the files of a package by name; and a policy."""


class VerifierPage:
    """verify.html, opened from a file."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def verify(
        self, cases: Sequence[Case], *, by_hand: bool = False, anchors: Sequence[Sequence[str]] | None = None
    ) -> list[tuple[int, list[tuple[str, str]], str | None]]:
        """(exit code, [(status, name of the check)], error) of each case; ``anchors``: the types asked for of each."""
        asked = [[]] * len(cases) if anchors is None else [list(types) for types in anchors]
        policies = list(dict.fromkeys(policy for _, policy in cases if policy is not None))
        sent = [
            [
                _b64(given) if isinstance(given, bytes) else {name: _b64(data) for name, data in given.items()},
                None if policy is None else policies.index(policy),
                types,
            ]
            for (given, policy), types in zip(cases, asked, strict=True)
        ]
        answers = self.page.evaluate(_BATCH, [sent, [_b64(policy) for policy in policies], by_hand])
        return [(code, [(status, name) for status, name in checks], error) for code, checks, error in answers]

    def changed(
        self,
        file: bytes,
        policy: bytes,
        changes: Sequence[tuple[int, int]],
        folder: tuple[str, Mapping[str, bytes]] | None = None,
    ) -> list[int]:
        """The exit codes of a file with one byte set, for each change; ``folder``: its name, and the files of its package."""
        name, files = ("", None) if folder is None else (folder[0], {one: _b64(data) for one, data in folder[1].items()})
        return list(self.page.evaluate(_CHANGES, [_b64(file), _b64(policy), [[*change, name] for change in changes], files]))


@contextmanager
def open_verifier(path: Path) -> Iterator[VerifierPage]:
    """The page in a Chromium that has no network; asserts that it asked for nothing and complained of nothing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=chromium, args=arguments, timeout=120_000)
        try:
            context = browser.new_context(offline=True)
            page = context.new_page()
            page.set_default_timeout(60_000)
            asked: list[str] = []
            said: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(path.as_uri())
            yield VerifierPage(page)
            assert asked == [path.as_uri()]
            assert said == []
        finally:
            browser.close()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
