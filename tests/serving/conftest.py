from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.small_bundle import make


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("trained") / "bundle")
