"""From a log to a judgement, against figures worked out unit by unit."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longtail.errors import InvalidInput
from longtail.experiments.analysis import Result, analyse
from longtail.experiments.assignment import HOLDOUT, places
from longtail.experiments.config import Experiment
from longtail.experiments.decision import decide
from longtail.schema import DAY_US
from tests.experiments.shops import START, people, write_shop, write_state

TEXT = """name: test
variants:
  control: {share: 0.5}
  new: {share: 0.5, bundle: challenger}
metric: {name: revenue, winsorise: 0.99}
guardrails: [{metric: conversion, margin: 0.1}]
also: [ctr, clicks, order_value, sessions]
minimum_effect: 0.05
covariate_days: 14
dates: {start: 2024-03-01, end: 2024-03-15}
slices: [history, surface, device]
"""
END = START + 14 * DAY_US


def experiment(**changes: str) -> Experiment:
    return Experiment.parse(TEXT + "".join(f"{key}: {value}\n" for key, value in changes.items()))


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    events = people(lift=0.4)
    return events, write_shop(tmp_path_factory.mktemp("lifted"), events)


def by_hand(events: pd.DataFrame, kind: str, column: str | None, low: int, high: int, first: pd.Series) -> pd.Series:
    """Sum of each unit of `first` over [low, high), from its first exposure on."""
    of = events[(events["event_type"] == kind) & (events["time"] >= low) & (events["time"] < high)]
    if low >= START:
        of = of[of["time"].to_numpy() >= of["user"].map(first).fillna(np.inf).to_numpy()]
    summed = of.groupby("user")[column].sum() if column else of.groupby("user").size()
    return summed.reindex(first.index).fillna(0)


def test_figures_agree_with_those_worked_out_unit_by_unit(lifted):
    events, folder = lifted
    result = analyse(experiment(), folder, END)
    met = events[(events["event_type"] == "impression") & (events["time"] >= START)].groupby("user")
    first, variant = met["time"].min(), met["variant"].first()
    assert result.units == variant.value_counts().to_dict() and result.complete and not result.broken
    new = (variant == "new").to_numpy()

    def sums(kind, column=None):
        return by_hand(events, kind, column, START, END, first)

    money, before = sums("purchase", "value"), by_hand(events, "purchase", "value", 0, START, first)
    money, before = (v.clip(upper=v.quantile(0.99)).to_numpy() for v in (money, before))
    centred = [np.concatenate([v[new] - v[new].mean(), v[~new] - v[~new].mean()]) for v in (money, before)]
    theta = centred[0] @ centred[1] / (centred[1] @ centred[1])
    adjusted = money - theta * (before - before.mean())
    line = result.line("revenue", "new")
    assert line.treatment == pytest.approx(adjusted[new].mean(), rel=1e-3)
    assert line.control == pytest.approx(adjusted[~new].mean(), rel=1e-3)
    error = np.sqrt(adjusted[new].var(ddof=1) / new.sum() + adjusted[~new].var(ddof=1) / (~new).sum())
    assert (line.difference.high - line.difference.low) / 2 == pytest.approx(1.961 * error, rel=1e-2)
    assert line.variance_left == pytest.approx(adjusted.var() / money.var(), rel=0.03)

    bought = (sums("purchase") > 0).to_numpy()
    assert result.line("conversion", "new").treatment == pytest.approx(bought[new].mean(), abs=0.01)
    clicks, shown = sums("click").to_numpy(), sums("impression").to_numpy()
    ctr = result.line("ctr", "new")
    assert ctr.treatment == pytest.approx(clicks[new].sum() / shown[new].sum(), abs=0.01)
    rng = np.random.default_rng(0)
    picks = [rng.choice(np.flatnonzero(arm), (1_000, arm.sum())) for arm in (new, ~new)]
    drawn = [clicks[p].sum(1) / shown[p].sum(1) for p in picks]
    spread = (drawn[0] - drawn[1]).std() * np.sqrt(ctr.variance_left)
    assert (ctr.difference.high - ctr.difference.low) / 3.92 == pytest.approx(spread, rel=0.1)
    assert result.line("sessions", "new").treatment == pytest.approx(shown[new].mean(), abs=0.1)
    assert {p.part for p in result.parts if p.by == "surface"} == {"homepage", "cart"}
    assert sum(p.units for p in result.parts if p.by == "history") == len(first)
    assert not [p for p in result.parts if p.by == "device"]


def test_the_servers_own_files_give_the_same_figures(lifted, tmp_path):
    events, folder = lifted
    agree(analyse(experiment(), folder, END), analyse(experiment(), write_state(tmp_path, events), END))


def agree(one: Result, other: Result) -> None:
    assert one.units == other.units
    for a, b in zip(one.lines, other.lines, strict=True):
        assert (a.metric, a.lift.value, a.p) == (b.metric, pytest.approx(b.lift.value), pytest.approx(b.p))


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("ns"), pa.timestamp("ns", "UTC")]
)
def test_times_may_be_written_in_any_unit(lifted, tmp_path, kind):
    """Such as nanoseconds, which pandas writes."""
    events, folder = lifted
    expected = analyse(experiment(), folder, END)
    for log in (write_shop(tmp_path / "shop", events), write_state(tmp_path / "state", events)):
        for path in log.rglob("*.parquet"):
            written = pq.ParquetFile(path).read()
            for n, name in enumerate(written.column_names):
                if name in ("time", "timestamp"):
                    written = written.set_column(n, name, written[name].cast(kind))
            pq.write_table(written, path)
        agree(expected, analyse(experiment(), log, END))


def test_money_of_a_few_buyers_is_not_cut_away(lifted, tmp_path):
    events = lifted[0]
    bought = events[events["event_type"] == "purchase"]
    few = bought["user"].drop_duplicates().iloc[:8]  # of a thousand: the 99th percentile of all is 0
    folder = write_shop(tmp_path, events.drop(bought.index[~bought["user"].isin(few)]))
    line = analyse(experiment(), folder, END).line("revenue", "new")
    assert line.treatment + line.control > 0


def test_an_effect_ships_and_none_does_not(lifted, tmp_path):
    decision = decide(analyse(experiment(), lifted[1], END))
    assert decision.outcome == "ship" and decision.sentence.startswith("Ship new: revenue +")
    assert "conversion held" in decision.sentence
    nothing = write_shop(tmp_path, people(lift=0.0, seed=5))
    result = analyse(experiment(), nothing, END)
    assert decide(result).outcome in ("do not ship", "unclear")
    assert all(line.p_holm > 0.05 for line in result.lines)
    harm = write_shop(tmp_path / "harm", people(lift=-0.5, seed=6))
    assert decide(analyse(experiment(), harm, END)).sentence.startswith("Do not ship new: it is worse than control")


def test_a_peek_at_a_test_of_one_look_decides_nothing_good(lifted):
    events, folder = lifted
    peek = analyse(experiment(), folder, START + 10 * DAY_US)
    assert not peek.complete and decide(peek).outcome == "wait"
    daily = analyse(experiment(looks="any_day"), folder, START + 10 * DAY_US)
    assert decide(daily).outcome == "ship" and len(daily.daily["new"]) == 10
    line = daily.line("revenue", "new")
    assert line.any_day.high - line.any_day.low > line.lift.high - line.lift.low
    widths = [r.high - r.low for r in daily.daily["new"]]
    assert widths[-1] < widths[2] and daily.daily["new"][-1] == line.any_day


def test_a_broken_split_is_not_read(lifted, tmp_path):
    events = lifted[0]
    lost = events[~((events["variant"] == "new") & (events["user"] % 5 == 0))]
    result = analyse(experiment(), write_shop(tmp_path / "lost", lost), END)
    assert result.lines == [] and result.split_p < 1e-3
    assert decide(result).sentence.startswith("Do not read this experiment: the split is not the planned one: control")
    moved = events.copy()
    moved.loc[(moved["user"] % 10 == 0) & (moved["time"] > START + 5 * DAY_US), "variant"] = "control"
    result = analyse(experiment(), write_shop(tmp_path / "moved", moved), END)
    assert result.crossed > 50 and "met more than one variant" in result.broken


def test_an_effect_that_wears_off_is_seen(tmp_path):
    folder = write_shop(tmp_path, people(4_000, lift=1.0, wears_off=True, seed=3))
    (found,) = analyse(experiment(), folder, END).novelty
    assert found.days == 4 and found.p < 0.01 and found.early.value > found.late.value + 0.3
    result = analyse(experiment(), write_shop(tmp_path / "lasting", people(4_000, lift=0.5, seed=4)), END)
    assert result.novelty[0].p > 0.01 and len(result.by_age["new"]) > 10


def test_only_those_who_met_it_where_it_shows_are_exposed(lifted):
    everywhere = analyse(experiment(), lifted[1], END)
    home = analyse(experiment(surfaces="[homepage]"), lifted[1], END)
    assert 0 < sum(home.units.values()) < sum(everywhere.units.values())


def test_logged_exposures_say_who_met_it_where_servers_write_them(lifted, tmp_path):
    events, folder = lifted
    state = write_state(tmp_path, events.assign(variant="champion"))
    shown = events[(events["event_type"] == "impression") & (events["user"] % 2 == 0) & (events["day"] >= 0)]
    met = shown.assign(
        user_id="u" + shown["user"].astype(str), experiment="test",
        time=pd.to_datetime(shown["time"], unit="us", utc=True).dt.as_unit("us"), device=None, region="north",
    )[["user_id", "experiment", "variant", "surface", "time", "device", "region"]]  # fmt: skip
    other = met.assign(experiment="another", variant="new")
    part = state / "exposures" / "date=2024-03-01"
    part.mkdir(parents=True)
    pd.concat([met, other]).to_parquet(part / "part-0.parquet", index=False)
    shop = write_shop(tmp_path / "shop", events.drop(columns="variant").assign(variant="champion"))
    pd.concat([met, other]).to_parquet(shop / "exposures.parquet", index=False)
    found, whole = analyse(experiment(), state, END), analyse(experiment(), folder, END)
    assert analyse(experiment(), shop, END).units == found.units
    assert found.crossed == 0 and sum(found.units.values()) == shown["user"].nunique()
    assert abs(sum(found.units.values()) - sum(whole.units.values()) / 2) < 50
    assert found.line("revenue", "new").lift.value == pytest.approx(0.4, abs=0.35)


def test_lists_name_the_variants_of_several_experiments(lifted, tmp_path):
    events, folder = lifted
    both = "other:" + events["variant"].map({"control": "new", "new": "control"}) + "+test:" + events["variant"]
    labelled = events.assign(variant=both.where(events["day"] >= 0, "champion"))
    whole = analyse(experiment(), folder, END)
    for log in (write_state(tmp_path / "state", labelled), write_shop(tmp_path / "shop", labelled)):
        found = analyse(experiment(), log, END)
        assert found.units == whole.units and found.crossed == 0
        one, other = (r.line("revenue", "new").lift for r in (found, whole))
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_a_holdout_says_what_the_experiments_did_together(tmp_path):
    new = places([f"u{n}" for n in range(4_000)], HOLDOUT) >= 0.3
    events = people(4_000, lift=0.4, new=new.astype(int))
    labelled = events.assign(variant=np.where(events["variant"] == "new", "ranker:new", "champion"))
    text = TEXT[: TEXT.index("variants:")] + "kind: holdout\nholdout: 0.3\n" + TEXT[TEXT.index("metric:") :]
    met = labelled.query("event_type == 'impression' and day >= 0")["user"].unique()
    for log in (write_state(tmp_path / "state", labelled), write_shop(tmp_path / "shop", labelled)):
        found = analyse(Experiment.parse(text), log, END)
        assert found.units == {"holdout": int((~new[met]).sum()), "others": int(new[met].sum())}
        assert found.crossed == 0 and found.line("revenue", "others").lift.low > 0.1
        assert decide(found).sentence.startswith("The experiments together bring something: revenue +")
        assert "against the holdout" in decide(found).sentence
        more = analyse(Experiment.parse(text.replace("holdout: 0.3", "holdout: 0.4")), log, END)
        assert "units of the holdout met an experiment: the servers held out less than 40.0%" in more.broken
    before = write_shop(
        tmp_path / "before", people(4_000, new=new.astype(int)).drop(columns="variant").assign(variant="")
    )
    assert decide(analyse(Experiment.parse(text), before, END)).outcome == "unclear"


def test_a_session_may_be_the_unit(lifted):
    result = analyse(Experiment.parse(TEXT.replace("covariate_days: 14\n", "unit: session\n")), lifted[1], END)
    assert sum(result.units.values()) == lifted[0].query("event_type == 'impression' and day >= 0")["user"].size


def test_mistakes_are_told(lifted, tmp_path):
    with pytest.raises(InvalidInput, match=r"holds neither events.parquet nor impressions/"):
        analyse(experiment(), tmp_path, END)
    with pytest.raises(InvalidInput, match="nobody met control_, newer of .+ between 2024.+experiment status"):
        analyse(Experiment.parse(TEXT.replace("control:", "control_:").replace("new:", "newer:")), lifted[1], END)
    with pytest.raises(InvalidInput, match="ends before the experiment starts on 2025-03-01"):
        analyse(Experiment.parse(TEXT.replace("2024", "2025")), lifted[1], END + 400 * DAY_US)
    plain = write_shop(tmp_path, lifted[0])
    pd.read_parquet(plain / "events.parquet").drop(columns="variant").to_parquet(plain / "events.parquet")
    with pytest.raises(InvalidInput, match="names no variants"):
        analyse(experiment(), plain, END)
