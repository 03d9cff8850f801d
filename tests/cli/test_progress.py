"""Long work says where it is: a bar for people, lines for logs, and neither in what a program reads."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from longtail.cli import progress

SIMULATE = ("--users", "60", "--items", "40", "--days", "12", "--events", "3000")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "longtail.cli", *map(str, words)]


def test_a_log_gets_plain_lines_on_stderr(tmp_path: Path):
    words = ("simulate", "--out", tmp_path / "shop", "--key-file", tmp_path / "key", "--json", *SIMULATE)
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["good"] > 2000
    assert re.sub(r": \d+\.\d s", "", done.stderr).splitlines() == [
        "simulating days", "checking the events", "writing the events", "writing the items"
    ]  # fmt: skip


def test_a_terminal_gets_a_bar_that_does_not_stay(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    rows = [f"u{i % 5},i{i % 7},2024-01-{1 + i % 28:02d}T10:00:00" for i in range(500)]
    (source / "e.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    (source / "mapping.yaml").write_text("events: e.csv\nevent_type: click\n")
    words = ("import", "mapped", source, "--out", tmp_path / "shop", "--key-file", tmp_path / "key")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        out = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0
    text = seen.decode()
    assert "checking the events" in text and "━" in text
    assert text.rstrip().endswith("\x1b[2K"), "the bar's line is cleared at the end"
    assert out.startswith("500 events of 5 users")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: the other side is closed
        return b""


@pytest.mark.parametrize(("every", "between"), [(60.0, []), (0.0, ["writing: 1 of 3", "writing: 2 of 3"])])
def test_a_log_is_not_flooded(every: float, between: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "EVERY_S", every)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 7.0)
    text = io.StringIO()
    with progress.shown(Console(file=text)) as report:
        for done in range(3):
            report("writing", done, 3)
        report("tidying", 0, 0)
    assert text.getvalue().splitlines() == [*between, "writing: 0.0 s", "tidying: 0.0 s"]


def test_a_mistake_is_not_preceded_by_news():
    text = io.StringIO()
    with pytest.raises(ValueError), progress.shown(Console(file=text)) as report:
        report("reading", 0, 0)
        raise ValueError
    assert text.getvalue() == ""
