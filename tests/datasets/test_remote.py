"""Data at addresses is fetched for a step, and is gone afterwards."""

from pathlib import Path

import pytest

from longtail import steps
from longtail.datasets.importing import simulate_shop
from longtail.datasets.remote import fetching
from longtail.datasets.simulator import SimulatorConfig
from longtail.errors import InvalidInput
from longtail.events import Shop


@fetching("data")
def look(data: str, out: list[Path]) -> str:
    out.append(Path(data))
    return "".join(p.read_text() for p in sorted(Path(data).rglob("*")) if p.is_file()) or Path(data).read_text()


def test_a_folder_with_its_folders_a_file_and_a_plain_path_are_taken_alike(tmp_path):
    (tmp_path / "shop" / "deep").mkdir(parents=True)
    (tmp_path / "shop" / "a").write_text("one ")
    (tmp_path / "shop" / "deep" / "b").write_text("two")
    seen: list[Path] = []
    assert look(f"file://{tmp_path}/shop", seen) == look(str(tmp_path / "shop"), out=seen) == "one two"
    assert look(data=f"file://{tmp_path}/shop/a", out=seen) == "one "
    assert [path.name for path in seen] == ["shop", "shop", "a"]
    assert [path.exists() for path in seen] == [False, True, False], "copies are gone, what is ours stays"


def test_a_shop_at_an_address_becomes_the_step_s_artifact(tmp_path):
    simulate_shop(tmp_path / "shop", SimulatorConfig(30, 20, 10, 500, seed=1), key_file=tmp_path / "key")
    figures = steps.ingest("shop", f"file://{tmp_path}/shop", tmp_path / "out")
    assert figures == steps.ingest("shop", str(tmp_path / "shop"), tmp_path / "other")
    assert len(Shop.load(tmp_path / "out").log) == len(Shop.load(tmp_path / "shop").log)


@pytest.mark.parametrize(
    ("address", "said"),
    [("file:///nowhere/at/all", "does not exist"), ("ftp://host/shop", "cannot be read")],
)
def test_what_cannot_be_fetched_is_one_line(address, said):
    with pytest.raises(InvalidInput, match=said) as error:
        look(address, [])
    assert address in str(error.value) and "\n" not in str(error.value)
