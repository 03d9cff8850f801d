"""A trained bundle serves a simulated shop; its servers' logs are checked."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.served_shop import Fault
from longtail import steps
from longtail.cli.app import app
from longtail.datasets.simulated_world import Drift
from longtail.errors import InvalidInput
from longtail.features.request import feature_list
from longtail.monitoring import drift, parity
from longtail.monitoring.checks import CHECKS
from longtail.monitoring.config import Watch
from longtail.monitoring.drift import sample
from longtail.monitoring.exposition import METRICS
from longtail.monitoring.history import History
from longtail.monitoring.judging import Measured
from longtail.monitoring.log import day_of, iso
from longtail.monitoring.run import measure_day, monitor
from longtail.schema import DAY_US

WATCH = Watch(least_lists=20, least_places=100)
LATER = 2**60


def measured(lived, state, day):
    return {(m.name, m.part): m for m in measure_day(state, lived.watched, day, WATCH, LATER)}


def test_every_check_measures_something_of_what_servers_wrote(lived):
    found = measured(lived, lived.served.state, lived.days[1])
    silent = {name for name in CHECKS if all(isnan(m.value) for (n, _), m in found.items() if n == name)}
    assert silent == {"events_hours", "lasting_change"}, {n: m.why_not for (n, _), m in found.items() if n in silent}
    assert not any(name == "lasting_change" for name, _ in found)  # it needs the history, see `check_day`
    assert "too few events" in found["events_hours", ""].why_not
    assert found["unknown_items", ""].value == 0
    assert found["quarantined_events", ""].value == 0
    assert found["bot_traffic", ""].value == 0
    assert 1 <= found["model_age", ""].value < 2.5
    assert 3 < found["event_delay", ""].value < 60
    assert sum(m.value for (n, _), m in found.items() if n == "source_share") > 0.9


def test_what_was_served_is_what_training_computes(lived):
    assert measured(lived, lived.served.state, lived.days[1])["feature_parity", ""].value == 0


def test_counts_agree_with_the_log_itself(lived):
    lists = lived.served.rows  # of the newest day
    found = measured(lived, lived.served.state, lived.days[-1])
    home = [row for row in lists if row.surface == "homepage"]
    assert {row.surface for row in lists} == {"homepage", "product"}
    top = sum(len(row.items) for row in home)
    clicks = found["ctr", "surface homepage"].value * top
    assert clicks == pytest.approx(round(clicks)) and clicks > 0
    from_source = sum(source == lived.watched.bundle.sources[0] for row in lists for source in row.source)
    share = found.get(("source_share", lived.watched.bundle.sources[0]))
    if share is not None:
        assert share.value == pytest.approx(from_source / sum(len(row.items) for row in lists))


def test_faults_are_found_on_their_first_day(lived, tmp_path):
    day = lived.broken(tmp_path / "a", Fault(missing="pair_since", bots=2))
    found = measured(lived, tmp_path / "a", day)
    assert found["feature_missing", "pair_since"].value == 1
    assert found["feature_missing", "pair_first"].value < 1
    assert found["bot_traffic", ""].value > 0.2
    source = max((m for (n, _), m in found.items() if n == "source_share"), key=lambda m: m.value).part
    day = lived.broken(tmp_path / "b", Fault(dead=source, scaled="item_price"))
    broken = measured(lived, tmp_path / "b", day)
    assert broken["source_share", source].value == 0
    assert broken["feature_drift", "item_price"].value > 0.6 > found["feature_drift", "item_price"].value


def test_newcomers_lack_what_is_not_known_of_them_and_a_lost_feature_is_still_found(lived):
    bundle, reference = lived.watched.bundle, lived.watched.reference
    names = [f.name for f in feature_list(bundle.sources)]
    price, known = names.index("price_difference"), names.index("user_n_all")
    then = reference.features.copy()
    then[:, price], then[:, known] = 0.0, 1.0
    then[:200, price], then[:200, known] = np.nan, 0.0
    shown = sample(lived.served.state, day_of(lived.days[1]), bundle, 2000)
    now, new = shown.features.copy(), np.arange(len(shown.features)) % 2 == 0
    now[:, price] = np.where(new, np.nan, 0.0)

    def missing(people: np.ndarray) -> Measured:
        served = replace(shown, features=now, known=people)
        found = drift.measure(served, replace(reference, features=then), bundle.sources, 20)
        return next(m for m in found if (m.name, m.part) == ("feature_missing", "price_difference"))

    grown, lost = missing(~new), missing(np.ones(len(new), bool))
    assert grown.value == grown.training == new.mean()  # half of them are new, of whom training lacked it, too
    assert lost.value == new.mean() and lost.training == 0  # the bundle knows them all


def test_a_served_feature_that_training_computes_otherwise_is_told(lived, tmp_path):
    bundle = lived.watched.bundle
    shown = sample(lived.served.state, day_of(lived.days[1]), bundle, 2000)
    shown.features[:, 0] += 1  # as a server that reads another table
    found = parity.measure(shown, lived.served.state, bundle, 200, "1GB")
    assert 0.005 < found.value < 0.05


def test_an_imported_shop_is_checked_as_far_as_it_tells(lived, tmp_path):
    last = lived.days[0]
    day = f"{last[:8]}{int(last[8:]) - 1:02d}" if not last.endswith("01") else last
    signals = {(s.name, s.part): s for s in monitor(lived.shop, lived.bundle, tmp_path, [day], WATCH, LATER)}
    assert signals["events_volume", ""].value > 100
    assert "state folder" in signals["feature_drift", ""].reason
    assert signals["exposure_gini", ""].value > 0


def test_the_command_remembers_reports_and_says_by_its_code_what_is_critical(lived, tmp_path):
    def run(*words: str):
        asked = ["monitor", str(lived.served.state), "--bundle", str(lived.bundle), "--out", str(tmp_path), *words]
        return CliRunner().invoke(app, asked)

    (tmp_path / "calm.yaml").write_text("checks: {events_hours: {enabled: false}, feature_missing: {bound: 0.9}}\n")
    done = run("--first", lived.days[0], "--last", lived.days[1], "--config", str(tmp_path / "calm.yaml"))
    assert done.exit_code == 0, done.output
    assert History(tmp_path / "history.db").days() == lived.days[:2]
    told = json.loads((tmp_path / "report.json").read_text())
    page = (tmp_path / "report.html").read_text()
    assert told["sentence"] in page and page.count("<svg") >= 10
    wanted = ("ctr", "conversion", "revenue")
    rates = {s["name"]: s for s in told["signals"] if s["name"] in wanted and s["value"] is not None}
    assert len(rates) == 3 and all(s["low"] < s["value"] < s["high"] for s in rates.values())
    assert f"{rates['conversion']['low']:,.4g} to {rates['conversion']['high']:,.4g}" in page
    exported = (tmp_path / "monitor.prom").read_text()
    assert set(re.findall(r"^# HELP (\w+)", exported, re.M)) == set(METRICS)
    assert 'longtail_monitor_fired{check="feature_parity",part="",severity="critical"} 0.0' in exported
    after = iso(day_of(lived.days[-1]) + DAY_US)
    late = run("--day", after)  # nothing was written on that day
    assert late.exit_code == 1 and "log_freshness" in late.output
    assert run("--day", "soon").exit_code == 2
    with pytest.raises(InvalidInput, match="future"):
        monitor(lived.served.state, lived.bundle, tmp_path, ["2024-05-02"], now=day_of("2024-05-01"))


def test_the_night_after_servers_began_calls_nobody(lived, tmp_path, monkeypatch):
    def run(*words: str):
        asked = ["monitor", str(lived.served.state), "--bundle", str(lived.bundle), "--out", str(tmp_path), *words]
        return CliRunner().invoke(app, asked)

    before = iso(day_of(lived.days[0]) - DAY_US)
    monkeypatch.setattr("longtail.monitoring.log.yesterday", lambda: before)
    done = run()
    assert done.exit_code == 0 and f"begins on {lived.days[0]}" in done.output
    assert json.loads(run("--json").output)["signals"] == [] and not list(tmp_path.iterdir())
    done = run("--first", before, "--last", lived.days[0])
    assert History(tmp_path / "history.db").days() == lived.days[:1], done.output
    named = run("--day", before).exception
    assert isinstance(named, InvalidInput) and f"begins on {lived.days[0]}" in str(named)
    told = steps.monitor(str(lived.served.state), str(tmp_path), str(tmp_path / "none"), "", "", tmp_path / "step")
    assert f"begins on {lived.days[0]}" in told["sentence"] and told["critical"] == []


def test_a_folder_without_a_log_is_named(lived, tmp_path):
    with pytest.raises(InvalidInput, match="state folder"):
        monitor(tmp_path, lived.bundle, tmp_path / "out")


def test_a_day_that_lacks_hours_and_values_shows_it(lived, tmp_path):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    busy = Drift(lived.served.day, traffic=16)  # enough events for a spread over hours
    day = lived.served.fork(tmp_path / "a", busy, Fault()).live()
    path = next((tmp_path / "a" / "events" / f"date={day}").glob("*.parquet"))
    whole = measured(lived, tmp_path / "a", day)
    table = pq.read_table(path)
    noon = day_of(day) + 14 * DAY_US // 24
    table = table.filter(pc.less(table["timestamp"].cast("int64"), noon))
    gone = pa.nulls(table.num_rows, pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("device"), "device", gone), path)
    less = measured(lived, tmp_path / "a", day)
    assert less["log_freshness", "events"].value > 8 > whole["log_freshness", "events"].value
    assert less["events_hours", ""].value > 0.25 > whole["events_hours", ""].value
    lacking = less["missing_values", "device"]
    assert lacking.value == 1 and lacking.training < 0.01
