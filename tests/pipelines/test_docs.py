"""What docs/pipelines.md shows exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from longtail.cli import app
from pipelines.platform import Step

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pipelines.md").read_text()
SHOWN = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines() if line]
COMMANDS = typer.main.get_command(app).commands["pipeline"].commands


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_parses(line):
    program, group, verb, *words = shlex.split(line, comments=True)
    assert (program, group) == ("longtail", "pipeline")
    COMMANDS[verb].make_context(verb, words)


def test_every_command_and_every_key_of_a_step_is_explained():
    assert set(re.findall(r"^\| `longtail pipeline (\w+)", PAGE, re.M)) == set(COMMANDS)
    table = PAGE.split("| key of a step |")[1].split("\n\n")[0]
    keys = {name for row in re.findall(r"^\| (`[^|]+`) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert keys == set(Step.model_fields) - {"image"}
