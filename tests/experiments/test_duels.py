"""Duels: what the logs of drafted lists say of two rankers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from longtail.cli import app
from longtail.engine.experiment_log import Drafted, DraftLog
from longtail.engine.impressions import Impression, table_of
from longtail.errors import InvalidInput
from longtail.experiments.config import Experiment
from longtail.experiments.duels import analyse_duel, render_duel
from longtail.experiments.interleaving import draft_chances, team_draft
from longtail.schema import DAY_US

START = 19_783 * DAY_US  # 2024-03-01
TEXT = """name: duel
kind: interleaving
variants: {now: {share: 0.5}, new: {share: 0.5, bundle: challenger}}
metric: clicks
minimum_effect: 0.01
dates: {start: 2024-03-01, end: 2024-03-15}
"""


def write_state(folder, more: float = 0.0, unfair: bool = False, lists: int = 3_000, seed: int = 1):
    """Drafted lists of two, of which the new ranker's item is clicked `more` often; other lists and events beside."""
    rng = np.random.default_rng(seed)
    first = np.zeros(lists, int) if unfair else rng.integers(0, 2, lists)
    log = DraftLog(folder / "drafts", room=2 * lists, every_s=60)
    rows, clicks = [], []
    for n in range(lists):
        time, who = START + n % 14 * DAY_US, (f"u{n % 500}", None, f"r{n}", "homepage")
        team = [int(first[n]), 1 - int(first[n])]
        rows += [Drafted(time, "duel", *who, ["a", "b"], team), Drafted(time, "other", *who, ["a", "b"], [1, 0])]
        clicks += [(f"u{n % 500}", f"r{n}", item) for item, t in zip("ab", team, strict=True)
                   if rng.random() < 0.3 * (1 + more * t)]  # fmt: skip
        clicks += [(f"u{n % 500}", f"r{n}", "another item"), (f"u{n % 500}", None, "a")]
    log.add(rows)
    log.close()
    user, request, item = zip(*clicks, strict=True)
    told = {"user_id": user, "request_id": request, "item_id": item, "event_type": ["click"] * len(user),
            "session_id": user, "value": np.full(len(user), np.nan)}  # fmt: skip
    when = pa.array([START + 13 * DAY_US + 1] * len(user), pa.timestamp("us", tz="UTC"))
    part = folder / "events" / "date=2024-03-01"
    part.mkdir(parents=True)
    pq.write_table(pa.table({**told, "timestamp": when}), part / "part-0.parquet")
    return folder


def analysed(folder, days: int = 14):
    return analyse_duel(Experiment.parse(TEXT), folder, START + days * DAY_US)


def test_the_better_ranker_is_found_and_equal_ones_are_not_told_apart(tmp_path):
    better = analysed(write_state(tmp_path / "better", 0.5))
    assert (better.outcome, better.lists, better.units) == ("ship", 3_000, 500)
    assert better.duel.preference == pytest.approx(0.2, abs=0.07) and better.duel.low > 0
    equal = analysed(write_state(tmp_path / "equal"))
    assert equal.outcome == "unclear" and equal.duel.low < 0 < equal.duel.high
    assert "no lead is proven, nor that there is none" in equal.sentence
    assert analysed(tmp_path / "better", 7).sentence.startswith("Wait, 7 days are left; so far: not one click in")
    worse = analysed(write_state(tmp_path / "worse", -0.5))
    assert worse.outcome == "do not ship" and worse.sentence.startswith("Do not ship, it ranks worse: 3")


def test_a_lead_that_is_surely_too_small_is_not_shipped(tmp_path):
    wanted = Experiment.parse(TEXT.replace("minimum_effect: 0.01", "minimum_effect: 0.3"))
    found = analyse_duel(wanted, write_state(tmp_path), START + 14 * DAY_US)
    assert found.outcome == "do not ship" and "any lead is below the 30.0%" in found.sentence


def test_days_and_surfaces_add_up_to_the_whole(tmp_path):
    found = analysed(write_state(tmp_path, 0.5))
    assert len(found.daily) == 14 and [name for name, _ in found.parts] == ["homepage"]
    assert found.parts[0][1].value == found.duel.preference
    assert found.duel.preference == pytest.approx((found.events[1] - found.events[0]) / sum(found.events))
    assert np.mean([day.value for day in found.daily]) == pytest.approx(found.duel.preference, abs=0.02)


def test_the_plan_of_a_duel_foretells_how_sure_it_will_be(tmp_path):
    """What is counted on a log of lists that nobody drafted, against what duels of two weeks came to."""
    state = write_state(tmp_path)
    lists = [Impression(f"r{n}", f"u{n % 500}", None, "homepage", START + n % 14 * DAY_US, "champion", "v1", "full",
                        "live", ["a", "b"], [1.0] * 2, [0.0] * 2, ["ease"] * 2) for n in range(3_000)]  # fmt: skip
    part = state / "impressions" / "date=2024-03-01"
    part.mkdir(parents=True)
    pq.write_table(table_of(lists), part / "part-0.parquet")
    (tmp_path / "duel.yaml").write_text(TEXT.replace("minimum_effect: 0.01", "minimum_effect: 0.09"))
    done = CliRunner().invoke(app, ["experiment", "plan", str(tmp_path / "duel.yaml"), str(state), "--json"])
    told = json.loads(done.stdout)
    week = told["outlooks"][-1]
    assert week["days"] == 7 and week["units"] == 500
    se = np.mean([analysed(write_state(tmp_path / f"again{n}", seed=n)).duel.se for n in range(3)])
    assert week["effect"] == pytest.approx((1.96 + 0.84) * se * 2**0.5, rel=0.1)
    assert told["sentence"].startswith("Run 7 days: about 500 units") and "a lead in clicks of" in told["sentence"]
    assert (
        "CUPED" not in CliRunner().invoke(app, ["experiment", "plan", str(tmp_path / "duel.yaml"), str(state)]).stdout
    )


def test_a_coin_that_is_not_fair_is_not_read(tmp_path):
    found = analysed(write_state(tmp_path, 0.5, unfair=True))
    page = render_duel(found)
    assert found.sentence.split(",")[0] in page and "<svg" not in page
    assert found.outcome == "broken" and found.duel is None and "fair coin" in found.sentence


def test_the_command_line_judges_a_duel(tmp_path):
    (tmp_path / "duel.yaml").write_text(TEXT)
    state = write_state(tmp_path / "state", 0.5)
    words = ["experiment", "analyse", str(tmp_path / "duel.yaml"), str(state), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    sentence = done.stdout.splitlines()[0]
    assert done.exit_code == 0 and sentence.startswith("Ship new: 59.8% of the 2,224 clicks in 3,000 lists went to")
    assert json.loads((tmp_path / "out" / "experiment.json").read_text())["outcome"] == "ship"
    page = (tmp_path / "out" / "experiment.html").read_text()
    assert sentence in page and page.count("<svg") == 2 and "Can it be read?" in page


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("bundle: challenger", "rules: {caps: {brand: 1}}", "between bundles"),
        ("{share: 0.5, bundle", "{share: 0.3, bundle", "sum to"),
        ("metric: clicks", "metric: revenue", "counts events"),
        ("metric: clicks", "metric: clicks\nguardrails: [conversion]", "leave out `guardrails`"),
        ("metric: clicks", "metric: clicks\nlooks: any_day", "leave out `looks`"),
    ],
)
def test_what_is_no_duel_is_refused(old, new, told):
    with pytest.raises(InvalidInput, match=told):
        Experiment.parse(TEXT.replace(old, new))


def test_the_chances_of_a_draft_are_those_of_many_drafts():
    a, b = [1, 2, 3, 4], [1, 3, 5, 2]
    rng = np.random.default_rng(0)
    n = 20_000
    items, _ = team_draft(np.tile(a, (n, 1)), np.tile(b, (n, 1)), 4, rng)
    drawn = [tuple(row) for row in items.tolist()]
    for row in set(drawn):
        assert np.prod(draft_chances(a, b, row)) == pytest.approx(drawn.count(row) / n, abs=0.015)
