"""The registry on a real MLflow database with tiny bundles."""

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import InvalidBundle, InvalidInput
from longtail.evaluation.gate import Finding, GateConfig
from longtail.registry import Registry, Version, register


def write_bundle(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "version": version}))
    (folder / "catalogue").mkdir()
    (folder / "catalogue" / "items.txt").write_text(version)
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A registry of four bundles, registered one after the other with a margin of a hundredth, and their folder."""
    root = tmp_path_factory.mktemp("registry")
    for name, ndcg in (("first", 0.20), ("hardly", 0.205), ("better", 0.30), ("worse", 0.10)):
        bundle = write_bundle(root / name, name)
        figures = {"ndcg@10": ndcg, "cold": {"recall@20": ndcg / 2}, "note": "text is no figure", "empty": math.nan}
        register(
            bundle, figures, {"seed": 1, "ranker": {"trees": 9}}, f"# {name}", "f00d", root / "mlflow", margin=0.01
        )
    return Registry(root / "mlflow"), root


def roles(registry: Registry) -> dict[int, tuple[str, ...]]:
    return {version.number: version.aliases for version in registry.versions()}


def test_only_a_clear_lead_makes_a_champion(shop):
    registry, _ = shop
    assert [v.bundle_version for v in registry.versions()] == ["worse", "better", "hardly", "first"]
    assert roles(registry) == {4: ("challenger",), 3: ("champion",), 2: (), 1: ()}
    assert registry.get(2).decision.startswith("challenger: ndcg@10 0.2050 against 0.2000 of version 1")
    assert registry.champion().value == pytest.approx(0.30)


def test_a_version_carries_what_it_was_made_of(shop):
    registry, root = shop
    version = registry.get("champion")
    assert registry.get("better") == version  # by the name of its bundle
    assert version.figures == {"ndcg@10": 0.3, "cold.recall@20": 0.15}
    assert version.data_fingerprint == "f00d"
    run = registry.client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["ndcg_at_10"] == pytest.approx(0.3)
    assert run.data.params == {"seed": "1", "ranker.trees": "9"}
    shutil.rmtree(root / "better")  # the registry keeps its own copy
    resolved = registry.resolve("champion")
    assert (resolved / "catalogue" / "items.txt").read_text() == "better"
    assert resolved == registry.resolve(3) == registry.resolve("v3")


def test_registering_the_same_bundle_again_changes_nothing(shop):
    registry, root = shop
    before = roles(registry)
    again = register(root / "worse", {"ndcg@10": 0.9}, {}, "# again", "f00d", root / "mlflow")
    assert again.number == 4
    assert roles(registry) == before


def test_two_who_promote_at_once_take_turns(tmp_path, monkeypatch):
    for name, ndcg in (("first", 0.3), ("second", 0.2), ("third", 0.1)):
        register(write_bundle(tmp_path / name, name), {"ndcg@10": ndcg}, {}, "", "f00d", tmp_path / "mlflow")
    history = Registry._history
    monkeypatch.setattr(Registry, "_history", lambda self: (history(self), time.sleep(0.3))[0])
    with ThreadPoolExecutor() as pool:
        each = [pool.submit(Registry(tmp_path / "mlflow").promote, number) for number in (2, 3)]
        assert [done.result().number for done in each] == [2, 3]
    assert sorted(history(Registry(tmp_path / "mlflow"))) == [1, 2, 3]  # neither was forgotten


def test_promote_and_roll_back(shop):
    registry, _ = shop
    assert registry.promote(4).aliases == ("champion",)
    assert registry.promote("4").aliases == ("champion",)  # twice is once
    assert registry.rollback().number == 3
    assert roles(registry) == {4: ("challenger",), 3: ("champion",), 2: (), 1: ()}
    assert registry.rollback().number == 1
    with pytest.raises(InvalidInput, match="nothing to roll back to"):
        registry.rollback()
    assert registry.champion().number == 1


def test_unknown_versions_and_broken_bundles_say_so(shop, tmp_path):
    registry, _ = shop
    with pytest.raises(InvalidInput, match="no version or alias 'blue'.*versions: 1, 2, 3, 4"):
        registry.resolve("blue")
    with pytest.raises(InvalidBundle, match=r"no manifest\.json"):
        registry.register(tmp_path, {"ndcg@10": 1.0}, {}, "", "")
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(InvalidBundle, match="cannot be read"):
        registry.register(tmp_path, {"ndcg@10": 1.0}, {}, "", "")
    with pytest.raises(InvalidInput, match="no 'ndcg@10': choose one of hit@10"):
        registry.register(write_bundle(tmp_path / "b", "b"), {"hit@10": 1.0}, {}, "", "")
    assert len(registry.versions()) == 4


def test_a_registration_cut_short_before_its_decision_is_completed(shop, tmp_path, monkeypatch):
    registry, root = shop
    bundle = write_bundle(tmp_path / "cut", "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_decide", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.register(bundle, {"ndcg@10": 0.9}, {}, "", "")
    assert roles(registry)[5] == ()
    assert registry.register(bundle, {"ndcg@10": 0.9}, {}, "", "").aliases == ("champion",)
    assert len(registry.versions()) == 5


class Killed(BaseException):
    pass


def killed(*_):
    raise Killed


def test_a_promotion_that_was_cut_short_and_made_again_can_be_rolled_back(tmp_path, monkeypatch):
    registry = Registry(tmp_path / "mlflow")
    for name, ndcg in (("good", 0.2), ("bad", 0.1)):
        registry.register(write_bundle(tmp_path / name, name), {"ndcg@10": ndcg}, {}, "", name)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry.client, "set_registered_model_alias", killed)
        registry.promote(2)
    registry.promote(2)
    assert registry.rollback().number == 1
    assert roles(registry) == {2: ("challenger",), 1: ("champion",)}


def test_a_champion_that_was_cut_off_before_its_decision_is_no_challenger_of_itself(tmp_path, monkeypatch):
    registry = Registry(tmp_path / "mlflow")
    registry.register(write_bundle(tmp_path / "first", "first"), {"ndcg@10": 0.1}, {}, "", "a")
    bundle, tag = write_bundle(tmp_path / "better", "better"), registry.client.set_model_version_tag
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry.client, "set_model_version_tag", lambda *a: killed() if a[2] == "decision" else tag(*a))
        registry.register(bundle, {"ndcg@10": 0.2}, {}, "", "b")
    found = registry.register(bundle, {"ndcg@10": 0.2}, {}, "", "b")
    assert found.aliases == ("champion",) and found.decision.startswith("champion: ")


def test_an_empty_registry_says_what_to_do(tmp_path):
    registry = Registry(tmp_path / "new")
    assert registry.versions() == []
    assert registry.champion() is None
    with pytest.raises(InvalidInput, match="none yet: run `longtail train`"):
        registry.get("champion")
    with pytest.raises(InvalidInput, match="nothing to roll back to"):
        registry.rollback()
    assert list(tmp_path.iterdir()) == []  # looking leaves no trace


def test_figures_of_what_a_version_learned_from_beat_nobody(tmp_path):
    registry = Registry(tmp_path / "mlflow")

    def enter(name: str, ndcg: float, unseen: bool) -> Version:
        return registry.register(write_bundle(tmp_path / name, name), {"ndcg@10": ndcg}, {}, "", "", unseen=unseen)

    first = enter("first", 0.5, unseen=False)
    assert first.aliases == ("champion",), "a shop without a champion serves nothing"
    assert first.decision == (
        "champion: the first version; its ndcg@10 0.5000 is of a window that it had learned from and flatters it: "
        "import a longer log"
    )
    second = enter("second", 0.9, unseen=False)
    assert second.aliases == ("challenger",) and not second.unseen
    assert "so it beats nobody" in second.decision and "promote it by hand over version 1" in second.decision
    honest = enter("honest", 0.4, unseen=True)
    assert honest.aliases == ("challenger",)
    assert honest.decision.endswith("the figure of version 1 is of a window that it had learned from and flatters it")
    assert enter("better", 0.6, unseen=True).aliases == ("champion",)
    assert enter("last", 0.9, unseen=False).aliases == ("challenger",)
    assert registry.promote("challenger").aliases == ("champion",)


def test_a_lead_on_the_same_cases_must_be_more_than_chance(tmp_path):
    rng = np.random.default_rng(0)
    champion = rng.random(400)
    noisy = champion + rng.normal(0.01, 0.5, 400)
    registry = Registry(tmp_path / "mlflow")

    def enter(name: str, cases: np.ndarray, mean: float | None = None) -> Version:
        figures = {"ndcg@10": mean or float(cases.mean())}
        return registry.register(write_bundle(tmp_path / name, name), figures, {}, "", "f00d", cases=cases)

    enter("first", champion)
    lucky = enter("lucky", noisy, mean=0.99)
    assert lucky.aliases == ("challenger",)
    assert "could be chance" in lucky.decision
    assert enter("real", champion + 0.02).aliases == ("champion",)


def test_the_gate_holds_back_or_doubts_and_the_version_keeps_every_reason(tmp_path):
    registry = Registry(tmp_path / "mlflow")
    good, bad = np.linspace(0.4, 0.6, 50), np.linspace(0.1, 0.3, 50)
    passed = Finding("latency", True, "scored in 2 ms, within 50 ms")

    def add(name: str, ndcg: float, *findings: Finding, **more) -> Version:
        figures = {"ndcg@10": ndcg}
        return registry.register(write_bundle(tmp_path / name, name), figures, {}, "", name, findings=findings, **more)

    assert add("first", 0.5, passed, cases=good).aliases == ("champion",)
    slow = add("slow", 0.9, passed, Finding("slices", False, "tail items lose"), cases=good, against=bad)
    assert slow.aliases == ()
    assert slow.held and slow.decision == "held back: tail items lose"
    assert [(c["check"], c["passed"]) for c in slow.checks] == [("latency", True), ("slices", False)]
    doubted = add("doubted", 0.9, Finding("fall", False, "the data is odd", holds=False), cases=good, against=bad)
    assert doubted.aliases == ("challenger",)
    assert doubted.decision.endswith("; but the data is odd")
    same = {"cases": good, "against": good}
    assert add("same", 0.1, **same).aliases == ("challenger",), "on the same requests it is not better"
    fresh = add("fresh", 0.1, gate=GateConfig(promote="not_worse"), **same)
    assert fresh.aliases == ("champion",)
    assert "against version 1, ndcg@10 differs by +0.0000" in fresh.decision
