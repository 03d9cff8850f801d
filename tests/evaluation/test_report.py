import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from longtail.evaluation import Interval, Report
from longtail.evaluation.card import Data, Training, model_card
from longtail.evaluation.report import render, reservations, verdict, write_report
from tests.evaluation.test_system import report


class Page(HTMLParser):
    """Collects ids, references and unclosed tags of a page."""

    void = {"meta", "br", "link"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.void:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.loads += [v for k, v in attrs.items() if k in ("src", "href") and not (v or "").startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def found() -> Report:
    return report()


def test_the_page_stands_alone_and_is_well_formed(found, tmp_path):
    json_path, html_path = write_report(found, tmp_path, "Shop <b>", {"data": "a & b"})
    text = html_path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert "Shop &lt;b&gt;" in text and "a &amp; b" in text
    assert text.count("<svg") == 6
    assert re.search(r'id="verdict">Longtail leads on ndcg@10', text)
    assert {"repeat_days", "two-tower", "cold users", "coverage@k"} <= set(re.findall(r"[\w@ -]+", text))
    assert Report.from_json(json_path.read_text()) == found
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_the_same_figures_give_the_same_bytes(found):
    assert render(found) == render(found)


def with_gain(found, gain):
    systems = [dataclasses.replace(s, gain=s.gain and gain) for s in found.systems]
    return dataclasses.replace(found, systems=systems)


@pytest.mark.parametrize(
    ("gain", "says"),
    [((0.1, 0.05, 0.15), "leads on ndcg@10"), ((0.01, -0.02, 0.04), "too close to call"),
     ((-0.1, -0.2, -0.05), "is worse than")],
)  # fmt: skip
def test_the_verdict_follows_the_interval(found, gain, says):
    assert says in verdict(with_gain(found, Interval(*gain, 10)))


def test_where_another_system_is_ahead_is_said(found):
    assert any(text.startswith("popularity is ahead") and "head items" in text for text in reservations(found))


def test_figures_that_flatter_are_said_to(found):
    seen = dataclasses.replace(found, unseen=False)
    data, training = Data("shop", "f", 1, 1, 1, "", ""), Training({}, [], 1, "f")
    for text in (reservations(seen)[0], render(seen), model_card(seen, data, training)):
        assert "had learned from" in text
    for text in (*reservations(found), render(found), model_card(found, data, training)):
        assert "had learned from" not in text
    assert Report.from_json(seen.to_json()) == seen


def test_one_system_alone_still_makes_a_page(found):
    alone = dataclasses.replace(found, systems=[found.system("longtail")], importance={})
    assert "nothing was set beside it" in render(alone)


def test_a_figure_that_is_missing_is_null_in_json(found):
    gap = dataclasses.replace(found.systems[0], catalogue={**found.systems[0].catalogue, "novelty": float("nan")})
    text = dataclasses.replace(found, systems=[gap, *found.systems[1:]]).to_json()
    assert json.loads(text)["systems"][0]["catalogue"]["novelty"] is None
    assert "NaN" not in text


def test_the_model_card_tells_data_figures_and_limits(found):
    data = Data("shop", "abc123", 1_000_000, 5000, 200, "2026-01-01", "2026-06-01")
    training = Training({"depth": 6, "eta": 0.1}, ["popular", "two-tower"], 90, "f" * 64, 7, ["Trained on toys."])
    card = model_card(found, data, training)
    assert card.startswith("# Model card: longtail, trained on events until 2026-06-01\n")
    for text in ("abc123", "1,000,000", "| **longtail** |", "`depth` | `6`", "90 (schema",
                 "- Trained on toys.", "Fewer than 100 cases", "cold users", "popular, two-tower"):  # fmt: skip
        assert text in card
