from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.in_process import engine_of, parts_of
from tests.engine.opened import Opened
from tests.serving.small_bundle import make, shop


@pytest.fixture(scope="session")
def made_shop():
    return shop()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory, made_shop) -> Path:
    return make(tmp_path_factory.mktemp("trained") / "bundle", made_shop)


@pytest.fixture(scope="session")
def parts(bundle_folder, tmp_path_factory):
    return parts_of(bundle_folder, tmp_path_factory.mktemp("state"))


@pytest.fixture
def engine(parts):
    return engine_of(parts)


@pytest.fixture
def folders(bundle_folder, tmp_path) -> list[Path]:
    """Three bundles of different versions; the third is corrupt."""
    out = []
    for name in ("a", "b", "corrupt"):
        out.append(tmp_path / name)
        shutil.copytree(bundle_folder, out[-1])
    (out[2] / "fallback.json").write_text("{")
    return out


@pytest.fixture
def opened(parts) -> Opened:
    return Opened(parts)
