from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.in_process import engine_of, parts_of
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
