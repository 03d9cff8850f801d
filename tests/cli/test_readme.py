"""Every command that the README shows exists and takes what it is given."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from longtail.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SHELL = [
    line.strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]
TABLE = re.findall(r"^\| `longtail ([^`]+)`", README, re.M)
GROUP = typer.main.get_command(app)


@pytest.mark.parametrize("line", SHELL)
def test_a_shown_command_parses(line):
    program, *words = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[0] in targets
        return
    assert program == "longtail"
    command = GROUP
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_the_table_names_every_command_and_no_other():
    shown = {re.split(r"[ ,`]", entry)[0] for entry in TABLE}
    assert shown == set(GROUP.commands)


def test_every_yaml_and_picture_it_shows_is_there():
    for block in re.findall(r"```yaml\n(.*?)```", README, re.S):
        assert yaml.safe_load(block)
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
