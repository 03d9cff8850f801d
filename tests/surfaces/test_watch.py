import asyncio
import os

import pytest

from longtail.errors import InvalidInput
from longtail.metrics import CONFIG_REFUSED
from longtail.surfaces import Surfaces, SurfacesWatch

REFUSED = CONFIG_REFUSED.labels("surfaces")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "surfaces.yaml"
    path.write_text("surfaces:\n  homepage: {k: 7}\n")
    return path


def k_of(surfaces: Surfaces) -> int:
    return surfaces.surfaces["homepage"].k


def looks(watch, n=3, bind=k_of):
    """What n looks in a row find."""

    async def look():
        return [await watch.changed(bind) for _ in range(n)]

    return asyncio.run(look())


def test_a_changed_file_is_taken_when_it_has_settled(file):
    watch = SurfacesWatch(file)
    assert k_of(watch.current) == 7 and looks(watch) == [None] * 3
    file.write_text("surfaces:\n  homepage: {k: 8}\n")
    assert looks(watch) == [None, 8, None]
    assert k_of(watch.current) == 8


def test_a_file_that_is_still_being_written_is_left_alone(file):
    """The first half of this file is valid by itself, and would unblock what the second half blocks."""
    watch = SurfacesWatch(file)
    whole = "surfaces:\n  homepage: {k: 9}\nrules:\n  block:\n  - brand: Recalled Ltd\n"
    with file.open("w") as half:
        half.write(whole[:30])
        half.flush()
        assert looks(watch, 1) == [None]
        half.write(whole[30:])
    assert looks(watch) == [None, 9, None]
    assert [b.brand for b in watch.current.rules.block] == ["Recalled Ltd"]


def test_a_file_that_changes_while_it_is_read_is_read_again(file):
    watch = SurfacesWatch(file)
    file.write_text("surfaces:\n  homepage: {k: 8}\n")

    def slow(surfaces):
        if k_of(surfaces) == 8:
            file.write_text("surfaces:\n  homepage: {k: 19}\n")
        return k_of(surfaces)

    assert looks(watch, 4, slow) == [None, None, None, 19]


def test_a_wrong_file_changes_nothing_and_is_said_once(file, caplog):
    watch = SurfacesWatch(file)
    before = REFUSED._value.get()
    file.write_text("surfaces:\n  homepage:\n    kk: 8\n")
    assert looks(watch, 6) == [None] * 6
    assert k_of(watch.current) == 7
    assert REFUSED._value.get() == before + 1
    assert watch.error == f"{file} line 3: surfaces.homepage.kk: unknown key"
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == [
        f"the changed surfaces are not taken, the old ones stay in force: {watch.error}"
    ]
    file.write_text("surfaces:\n  homepage: {k: 11}\n")
    assert looks(watch) == [None, 11, None] and watch.error is None


@pytest.mark.parametrize("content", [b"surfaces: {homepage: {k: 8\n", b"\xff\xfe", b"- 1\n", b"surfaces: {a: {k: 0}}"])
def test_damage_of_any_kind_is_refused(file, content):
    watch = SurfacesWatch(file)
    file.write_bytes(content)
    assert looks(watch) == [None] * 3 and k_of(watch.current) == 7 and watch.error is not None


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(file):
    watch = SurfacesWatch(file)
    file.unlink()
    assert looks(watch) == [None] * 3 and watch.error == f"{file} is gone"
    beside = file.with_name("new.yaml")
    beside.write_text("surfaces:\n  homepage: {k: 12}\n")
    os.replace(beside, file)
    assert looks(watch) == [None, 12, None] and watch.error is None


def test_what_cannot_be_bound_is_refused(file):
    def fails(surfaces):
        raise KeyError("no such column")

    watch = SurfacesWatch(file)
    file.write_text("surfaces:\n  homepage: {k: 8}\n")
    assert looks(watch, 3, fails) == [None] * 3
    assert k_of(watch.current) == 7 and "no such column" in watch.error


def test_a_touched_file_is_no_change_and_a_wrong_one_is_no_start(file):
    watch = SurfacesWatch(file)
    os.utime(file, (1, 1))
    assert looks(watch) == [None] * 3
    file.write_text("surfaces: 3\n")
    with pytest.raises(InvalidInput, match="line 1"):
        SurfacesWatch(file)


def test_following_hands_over_each_good_change(file):
    async def follow():
        taken = []
        task = asyncio.create_task(SurfacesWatch(file).follow(k_of, taken.append, every_s=0.01))
        for k in (21, 22):
            file.write_text(f"surfaces:\n  homepage: {{k: {k}}}\n")
            async with asyncio.timeout(5):
                while k not in taken:
                    await asyncio.sleep(0.01)
        task.cancel()
        return taken

    assert asyncio.run(follow()) == [21, 22]
