"""The report and the command: one sentence first, figures that agree with it."""

import json
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from longtail.cli import app
from longtail.experiments.analysis import Line, Range, Result
from longtail.experiments.decision import decide
from longtail.experiments.report import render
from tests.experiments.shops import people, write_shop
from tests.experiments.test_analysis import TEXT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_shop(tmp_path_factory.mktemp("shop"), people(lift=0.4))
    (folder / "experiment.yaml").write_text(TEXT)
    return folder


def run(*words: object):
    return CliRunner().invoke(app, ["experiment", *map(str, words)], catch_exceptions=False)


def test_the_command_says_what_to_do_and_writes_the_page(folder, tmp_path):
    done = run("analyse", folder / "experiment.yaml", folder, "--out", tmp_path / "report")
    sentence = done.stdout.splitlines()[0]
    assert done.exit_code == 0 and sentence.startswith("Ship new: revenue +")
    page = (tmp_path / "report" / "experiment.html").read_text()
    parser = HTMLParser()
    parser.feed(page)
    assert sentence in page.replace("&#39;", "'") and page.count("<svg") == 4
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "")  # fmt: skip
    told = json.loads((tmp_path / "report" / "experiment.json").read_text())
    assert told["decision"]["outcome"] == "ship" and told["complete"]
    assert (
        json.loads(run("analyse", folder / "experiment.yaml", folder, "--json").stdout)["decision"] == told["decision"]
    )


def test_an_earlier_day_can_be_looked_at(folder):
    done = run("analyse", folder / "experiment.yaml", folder, "--until", "2024-03-06")
    assert done.stdout.startswith("Wait: new was planned to be judged at its end, and 9 days are left")


def test_the_plan_is_told_as_a_table_and_a_sentence(folder):
    done = run("plan", folder / "experiment.yaml", folder)
    assert done.exit_code == 0 and "carried on" in done.stdout
    told = json.loads(run("plan", folder / "experiment.yaml", folder, "--json").stdout)
    assert told["sentence"].startswith("Run ") and told["outlooks"][0]["days"] == 7


def test_a_broken_experiment_shows_no_figure_and_fails(folder, tmp_path):
    events = people(lift=0.4)
    lost = events[~((events["variant"] == "new") & (events["user"] % 4 == 0))]
    write_shop(tmp_path, lost)
    done = run("analyse", folder / "experiment.yaml", tmp_path, "--out", tmp_path / "report")
    assert done.exit_code == 1 and done.stdout.startswith("Do not read this experiment: the split is not the planned")
    page = (tmp_path / "report" / "experiment.html").read_text()
    assert "What changed" not in page and "<svg" not in page


def line(metric, role, low, high, variant="new", p=0.5, better="higher", margin=0.02) -> Line:
    lift = Range((low + high) / 2, low, high)
    wide = Range(lift.value, low - 0.05, high + 0.05)
    return Line(metric, role, variant, better, 1.0, 1 + lift.value, lift, lift, wide, p, p, p, 1.0, margin)


def result(*lines: Line, complete=True, looks="once") -> Result:
    units, shares = {"old": 9, "new": 9}, {"old": 0.5, "new": 0.5}
    return Result("x", "old", looks, 0.03, 0.05, 14, 14, complete, units, shares, 0, 1.0, lines=list(lines))


GAIN = line("revenue", "metric", 0.01, 0.05, p=0.01)


@pytest.mark.parametrize(
    ("lines", "outcome", "words"),
    [
        ([GAIN], "ship", "Ship new: revenue +3.0% (+1.0% to +5.0%) against old"),
        ([GAIN, line("ctr", "guardrail", -0.01, 0.02)], "ship", "and ctr held"),
        ([GAIN, line("ctr", "guardrail", -0.03, 0.02)], "unclear", "may have lost more than the margin"),
        ([GAIN, line("ctr", "guardrail", -0.05, -0.01)], "do not ship", "it hurts ctr (-5.0% to -1.0%)"),
        ([GAIN, line("returns", "guardrail", 0.01, 0.05, better="lower")], "do not ship", "it hurts returns"),
        ([line("revenue", "metric", -0.01, 0.02)], "do not ship", "any gain of new is below the 3.0%"),
        ([line("revenue", "metric", -0.01, 0.06)], "unclear", "no gain is proven, nor that there is none"),
        ([line("returns", "metric", -0.06, -0.02, p=0.01, better="lower")], "ship", "Ship new: returns -4.0%"),
        (
            [line("revenue", "metric", -0.01, 0.06), line("revenue", "metric", 0.02, 0.03, "newer", 0.01)],
            "ship",
            "newer",
        ),
    ],
)
def test_the_sentence_follows_from_the_intervals(lines, outcome, words):
    decision = decide(result(*lines))
    assert (decision.outcome, words in decision.sentence) == (outcome, True), decision.sentence


def test_before_the_end_only_harm_beyond_doubt_decides():
    assert decide(result(GAIN, complete=False)).outcome == "wait"
    harm = line("revenue", "metric", -0.2, -0.1, p=0.001)
    assert decide(result(harm, complete=False)).outcome == "do not ship"
    assert decide(result(line("revenue", "metric", -0.06, -0.01, p=0.01), complete=False)).outcome == "wait"


def test_names_are_no_markup():
    assert "<b>x</b>" not in render(result(line("revenue", "metric", 0.01, 0.05, "<b>x</b>")))
