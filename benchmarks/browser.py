"""verify.html in a real Chromium: how long a package takes, and the most memory that its page had."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 1800


def verify_html(package: Path, policy: Path) -> dict[str, Any]:
    """The verdict of the page in the package, ``seconds`` from choosing the folder on, and the renderer's ``peak_mb``.

    ``{"failed": why}`` where there is no Chromium or the page gave up.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return {"failed": "there is no chromium on this machine"}
    from playwright import sync_api

    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            page = browser.new_context(offline=True).new_page()
            page.set_default_timeout(TIMEOUT_S * 1000)
            page.goto((package / "verify.html").as_uri())
            page.set_input_files("#policy", str(policy))
            begun = time.monotonic()
            page.set_input_files("#folder", str(package))
            page.wait_for_selector("body[data-verdict]")
            seconds = time.monotonic() - begun
            said = page.get_attribute("body", "data-verdict")
            return {"verdict": said, "seconds": round(seconds, 1), "peak_mb": max(_renderers(), default=0)}
        except sync_api.Error as error:
            return {"failed": str(error).splitlines()[0][:200]}
        finally:
            browser.close()


def _renderers() -> Iterator[int]:
    """The peak resident size, in MB, of each renderer below this process."""
    parents: dict[int, int] = {}
    peaks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status, words = (entry / "status").read_text(), (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        fields = dict(re.findall(r"^(PPid|VmHWM):\s+(\d+)", status, re.MULTILINE))
        parents[int(entry.name)] = int(fields["PPid"])
        if b"--type=renderer" in b" ".join(words).split():
            peaks[int(entry.name)] = int(fields.get("VmHWM", "0")) // 1024
    for pid, peak in peaks.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            yield peak
