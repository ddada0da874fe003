"""One eventful paper cluster and its packages, made once for all tests of reports; tests that spoil files copy them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.evidence import PaperStore, eventful, make_package, request


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperStore]:
    made = eventful(tmp_path_factory.mktemp("evidence") / "store")
    yield made
    made.close()


@pytest.fixture(scope="session")
def package(store: PaperStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SOC 2 report over all twelve days, in English."""
    target = tmp_path_factory.mktemp("packages") / "soc2"
    make_package(store, target, request())
    return target


@pytest.fixture(scope="session")
def japanese(store: PaperStore, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A J-SOX report over the same days, in Japanese."""
    target = tmp_path_factory.mktemp("packages") / "jsox"
    make_package(store, target, request("jsox"), lang="ja")
    return target
