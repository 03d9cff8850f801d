"""The deployment file: shares that add up, mistakes by line and key, and a watch that says each change once."""

from __future__ import annotations

import pytest

from longtail.engine.deployment import Deployment, DeploymentWatch
from longtail.errors import InvalidInput
from longtail.experiments.placed import Placed
from serving.serve import resumed

TWO = """variants:
  champion:   {bundle: /bundles/a, share: 0.9}
  challenger: {bundle: b, share: 0.1}
"""


def test_a_file_is_read_and_written_back_the_same(tmp_path):
    file = tmp_path / "deployment.yaml"
    file.write_text(TWO)
    read = Deployment.load(file)
    assert [str(b) for b in read.bundles] == ["/bundles/a", str(tmp_path / "b")]
    read.save(file)
    assert Deployment.load(file) == read
    assert [p.name for p in tmp_path.iterdir()] == ["deployment.yaml"]


def test_a_server_that_starts_again_goes_on_with_its_experiments(tmp_path):
    file, new = tmp_path / "deployment.yaml", tmp_path / "new"
    new.mkdir()
    (new / "manifest.json").write_text("{}")
    running = {
        name: Placed(
            layer=name, salt=name, slots=((0, 9),), variants={"a": {"share": 0.5}, "b": {"share": 0.5, **more}}
        )
        for name, more in (("ranker", {"bundle": new}), ("rules", {"rules": {"caps": {"brand": 1}}}))
    }
    plain = Deployment.single(tmp_path / "old")
    plain.model_copy(update={"experiments": running, "holdout": 0.02}).save(file)
    said: list[str] = []
    found = resumed(Deployment.single(tmp_path / "other"), file, said.append)
    assert found.experiments == running and found.holdout == 0.02 and found.bundles == [tmp_path / "other", new]
    (new / "manifest.json").unlink()
    assert list(resumed(plain, file, said.append).experiments) == ["rules"]
    assert "ranker does not go on" in said[2] and said[3] == "experiment rules goes on"
    assert resumed(plain, tmp_path / "nothing.yaml", said.append) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO.replace("0.9", "0.8"), r"line 1: variants: the shares sum to 0\.9"),
        (TWO.replace("share: 0.1", "weight: 0.1"), r"line 3: variants\.challenger\.share: missing"),
        (TWO.replace("0.1}", "2}"), r"line 3: variants\.challenger\.share"),
        (TWO.replace("0.1}", ".nan}"), r"line 3: variants\.challenger\.share"),
        (TWO.replace("challenger:", "a b:"), r"line 3: variants"),
        ("variants: {}", "line 1: variants"),
        ("variants:\n  a: {bundle: x, share: 1}\n  a: {bundle: y, share: 0}\n", "repeated"),
        ("", "variants: missing"),
    ],
)
def test_a_mistake_is_named_by_line_and_key(tmp_path, text, message):
    file = tmp_path / "deployment.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        Deployment.load(file)


def test_a_watch_says_each_change_once(tmp_path):
    file = tmp_path / "deployment.yaml"
    watch = DeploymentWatch(file)
    with pytest.raises(InvalidInput, match="is gone"):
        watch.changed()
    assert watch.changed() is None
    first = Deployment.single(tmp_path / "a")
    first.save(file)
    assert watch.changed() == first and watch.changed() is None
    file.write_text("variants: 7")
    with pytest.raises(InvalidInput, match="line 1"):
        watch.changed()
    assert watch.changed() is None
    second = Deployment.single(tmp_path / "b")
    second.save(file)
    assert watch.changed() == second


def test_servers_that_start_go_back_to_what_served_well_where_the_file_cannot_be_used(tmp_path):
    file = tmp_path / "deployment.yaml"
    with pytest.raises(InvalidInput, match="cannot be read|does not exist|No such file"):
        DeploymentWatch(file).first()
    good = Deployment.single(tmp_path / "a")
    good.save(file)
    watch = DeploymentWatch(file)
    assert watch.first() == good and watch.changed() is None and watch.accepted is None
    watch.accept(good)
    file.write_text("variants: 7")
    again = DeploymentWatch(file)
    assert again.first() == good
    with pytest.raises(InvalidInput, match="line 1"):
        again.changed()
