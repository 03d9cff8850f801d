"""What keeps a bundle from the lead, or from traffic: parts that surely lose, limits, and data that must be broken."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.evaluation.gate import GateConfig, fallen, not_worse, slices, within
from longtail.evaluation.metrics import Truth
from longtail.evaluation.segments import slice_cases, user_segments

RNG = np.random.default_rng(5)
BASE = RNG.random(4_000)
NOISE = RNG.normal(0, 0.1, 4_000)


def parts(values: np.ndarray, tail: np.ndarray) -> dict[str, np.ndarray]:
    first = np.arange(4_000) < 40
    masks = {"overall": True, "tail items": tail, "few": first}
    return {name: np.where(mask, values, np.nan) for name, mask in masks.items()}


def test_a_part_that_surely_loses_is_named_however_good_the_whole_is():
    tail = np.arange(4_000) % 5 == 0
    better = BASE + 0.1 + NOISE
    assert slices(parts(better, tail), parts(BASE, tail), GateConfig()).passed
    found = slices(parts(np.where(tail, BASE - 0.1, better), tail), parts(BASE, tail), GateConfig())
    assert (found.passed, found.holds) == (False, True)
    assert "tail items -0.1000 of 0.4" in found.reason
    assert "overall" not in found.reason


def test_a_loss_within_the_margin_or_of_a_handful_stops_nothing():
    tail = np.arange(4_000) % 5 == 0
    assert slices(parts(BASE - 0.02 + NOISE, tail), parts(BASE, tail), GateConfig()).passed
    few = parts(BASE, tail)
    few["few"] = few["few"] - 0.4
    assert slices(few, parts(BASE, tail), GateConfig()).passed
    assert not slices(few, parts(BASE, tail), GateConfig(slice_cases=30)).passed


def test_equal_systems_are_hardly_ever_stopped():
    rng, stopped = np.random.default_rng(1), 0
    for trial in range(60):
        group, base = rng.integers(0, 8, 800), rng.random(800)
        other = base + rng.normal(0, 0.3, 800)
        ours = {f"g{g}": np.where(group == g, other, np.nan) for g in range(8)}
        theirs = {f"g{g}": np.where(group == g, base, np.nan) for g in range(8)}
        stopped += not slices(ours, theirs, GateConfig(slice_loss=0), seed=trial).passed
    assert stopped <= 8  # 5% of 60 is three


def test_not_worse_is_for_who_stays_within_the_tolerance():
    assert not_worse(BASE, BASE, 0.0).champion
    assert not_worse(BASE - 0.005 + NOISE / 10, BASE, 0.03).champion
    assert not not_worse(BASE - 0.05 + NOISE / 10, BASE, 0.03).champion
    assert not not_worse(BASE[:20] + NOISE[:20] * 5, BASE[:20], 0.03).champion, "too few to tell"


def test_limits_and_figures_that_fell():
    assert within("latency", 3.0, 5.0, "ms", "scored in").passed
    over = within("size", 30.0, 5.0, "MB", "the bundle has")
    assert (over.passed, over.holds, over.reason) == (False, True, "the bundle has 30 MB, over 5 MB")
    broken = fallen(0.1, 0.3, GateConfig())
    assert (broken.passed, broken.holds) == (False, False)
    assert fallen(0.25, 0.3, GateConfig()).passed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"slice_los": 1}', "gate: slice_los: "),
        ('{"promote": "always"}', "gate: promote: "),
        ("[", "gate: the text: "),
    ],
)
def test_a_mistake_names_the_key(text, told):
    with pytest.raises(InvalidInput) as error:
        GateConfig.parse(text)
    assert str(error.value).startswith(told)


def test_cases_by_part_of_people_and_items():
    truth = Truth(np.array([0, 1, 2, 3, 3]), np.array([0, 1, 2]))
    lists = np.array([[0, 1], [2, 1], [0, 1], [1, 2]])
    lengths = np.array([0, 3, 30, 7])
    segments = user_segments(lengths, np.array([0, 1, 1, -1]), ["north", "south"], np.full(4, -1), [])
    assert list(segments) == ["history: no history", "history: 1 to 4 events", "history: 5 to 19 events",
                              "history: 20 events or more", "region: south", "region: north"]  # fmt: skip
    found = slice_cases(lists, truth, np.array([5, 4, 0]), lengths == 0, segments, "ndcg@10")
    np.testing.assert_allclose(found["overall"], [1, 1 / np.log2(3), 0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["region: south"], [np.nan, 1 / np.log2(3), 0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["cold items"], [np.nan, np.nan, 0, np.nan])


def test_every_key_of_the_gate_is_documented_with_its_default():
    text = (Path(__file__).resolve().parents[2] / "docs" / "retraining.md").read_text()
    for field in fields(GateConfig):
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        row = next((line for line in text.splitlines() if line.startswith(f"| `{field.name}` |")), "")
        assert default in row, field.name
