"""Every command that the README shows exists and takes what it is given."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import typer

from longtail.cli import app
from longtail.surfaces import Surfaces

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


def yaml_block(start: str) -> str:
    """The one YAML file of the README that begins so."""
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", README, re.S) if b.startswith(start)]
    return block


@pytest.mark.parametrize("line", SHELL)
def test_a_shown_command_parses(line):
    program, *words = shlex.split(line, comments=True)
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


def test_the_mapping_it_shows_imports_a_shop(tmp_path):
    from longtail.datasets.importing import import_shop

    (tmp_path / "mapping.yaml").write_text(yaml_block("events:"))
    orders = ["customer,sku,ordered_at,total", "1,a,2024-01-01T10:00:00,5", "2,b,2024-01-02T10:00:00,7"]
    (tmp_path / "orders.csv").write_text("\n".join(orders) + "\n")
    products = {"sku": ["a", "b"], "name": ["Axe", "Bow"], "department": ["tools", "sport"]}
    pd.DataFrame(products).to_parquet(tmp_path / "products.parquet")
    summary = import_shop("mapped", tmp_path, tmp_path / "shop", key_file=tmp_path / "key")
    assert (summary["good"], summary["items"], summary["users"]) == (2, 2, 2)


def test_the_surfaces_it_shows_are_valid(tmp_path):
    (tmp_path / "surfaces.yaml").write_text(yaml_block("rules:"))
    surfaces = Surfaces.load(tmp_path / "surfaces.yaml")
    assert surfaces.surfaces["email"].k == 12


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
