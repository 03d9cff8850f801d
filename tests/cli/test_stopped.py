"""Ctrl-C and SIGTERM end a command in one line, also while a module is being imported, where exceptions get lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):
        pass
except {lost}:
    pass
"""


@pytest.mark.parametrize(
    ("module", "name", "lost"),
    [
        ("psutil", "SIGTERM", "BaseException"),
        ("psutil", "SIGINT", "BaseException"),
        ("kfp", "SIGTERM", "BaseException"),
        ("numpy", "SIGINT", "()"),  # of the command itself
        ("typer", "SIGINT", "()"),  # of the command line
    ],
)
def test_a_command_that_is_told_to_stop_while_it_imports_says_so_in_one_line(
    tmp_path: Path, module: str, name: str, lost: str
) -> None:
    (tmp_path / f"{module}.py").write_text(STAND_IN.format(name=name, lost=lost))
    for file in ("events.parquet", "items.parquet"):
        (tmp_path / file).touch()
    words = ["simulate"] if module == "numpy" else ["train", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "longtail.cli", *words, "--out", tmp_path / "out"], cwd=tmp_path, timeout=60,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs in the background ignores it
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "longtail: stopped\n"), done.stdout
    assert not (tmp_path / "out").exists()
