"""Benchmarks are run by hand, long after a change: at least all that they import must be there."""

from importlib import import_module
from pathlib import Path

import pytest

MODULES = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_finds_what_it_imports(name):
    assert import_module(f"benchmarks.{name}").__doc__
