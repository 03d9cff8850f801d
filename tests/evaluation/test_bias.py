"""The bias report finds the group that is pushed, the one that is starved, and the people who are served worse."""

import json

import numpy as np
import pandas as pd
import pytest

from longtail.evaluation.bias import BiasReport, bias_report, item_groups, render, write_bias
from longtail.evaluation.card import Data, Training, card_data, card_page, model_card
from longtail.evaluation.metrics import Truth
from longtail.evaluation.system import judge
from longtail.events import Catalogue
from longtail.schema import DAY_US

NOW = 20_000 * DAY_US
DAY = pd.Timestamp(NOW, unit="us", tz="UTC")


@pytest.fixture(scope="module")
def found():
    """Forty items of two suppliers, bought alike; lists show House three times as often as Guest."""
    rng = np.random.default_rng(0)
    items = np.arange(40)
    catalogue = Catalogue.from_frame(
        pd.DataFrame(
            {
                "item_id": [f"i{i}" for i in items], "brand": ["House" if i % 2 else "Guest" for i in items],
                "category": ["a/b"] * 40, "price": 1.0 + items,
                "created_at": [DAY - pd.Timedelta(days=int(i) * 4) for i in items],
            }
        )
    )  # fmt: skip
    weight = np.where(items % 2, 3.0, 1.0)
    lists = np.stack([rng.choice(40, 10, replace=False, p=weight / weight.sum()) for _ in range(500)])
    lists[0, 3:] = -1
    quality = np.where(np.arange(500) < 100, 0.2, 0.6) + rng.normal(0, 0.05, 500)
    north = np.where(np.arange(500) < 100, quality, np.nan)
    chosen = np.full(40, 10)
    groups = item_groups(catalogue, chosen, NOW)
    return bias_report(lists, chosen, groups, {"overall": quality, "region: <north>": north}, "ndcg@10"), lists, groups


def test_shares_are_shares(found):
    report, lists, groups = found
    assert set(groups) == {"category", "brand", "price", "age", "popularity"}
    for kind in groups:
        of_kind = [g for g in report.groups if g.kind == kind]
        for column in ("catalogue", "chosen"):
            assert sum(getattr(g, column) for g in of_kind) == pytest.approx(1)
        assert sum(g.shown.mean for g in of_kind) == pytest.approx(1)
    brands = {g.name: g for g in report.groups if g.kind == "brand"}
    assert brands["House"].catalogue == brands["House"].chosen == 0.5
    assert brands["House"].shown.mean == pytest.approx(
        ((lists % 2 == 1) & (lists >= 0)).sum() / (lists >= 0).sum(), abs=0.01
    )
    assert brands["House"].shown.low < brands["House"].shown.mean < brands["House"].shown.high
    assert report.places == 500 * 10 - 7
    assert [g.name for g in report.groups if g.kind == "age"] == [
        "up to 7 days",
        "7 to 30 days",
        "30 to 90 days",
        "90 to 365 days",
    ]


def test_what_stands_out_is_said(found):
    told = found[0].findings()
    assert any(text.startswith("Supplier (brand) House gets more places") for text in told)
    assert any(text.startswith("Supplier (brand) Guest gets fewer places") for text in told)
    assert any("region: <north> are served worse: ndcg@10 " in text for text in told)
    assert not any(text.startswith("Category a") for text in told)


def test_the_page_and_the_data_are_written(found, tmp_path):
    write_bias(found[0], tmp_path)
    page = (tmp_path / "bias.html").read_text()
    assert page == render(found[0])
    assert "region: &lt;north&gt;" in page and "<north>" not in page
    data = json.loads((tmp_path / "bias.json").read_text())
    assert data["findings"] == found[0].findings()
    assert {g["name"] for g in data["groups"] if g["kind"] == "brand"} == {"House", "Guest"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bias.html", "bias.json"]


def test_many_suppliers_are_the_largest_and_the_rest():
    frame = pd.DataFrame({"item_id": [f"i{i}" for i in range(60)], "brand": [f"b{min(i, 30):02}" for i in range(60)]})
    codes, names = item_groups(Catalogue.from_frame(frame), np.zeros(60, np.int64), NOW)["brand"]
    assert len(names) == 15 and names[0] == "b30" and names[-1] == "others"
    assert (codes == 0).sum() == 30 and (codes == 14).sum() == 17


def test_the_card_says_what_stands_out_as_text_page_and_data(found):
    lists = {"longtail": np.array([[0, 1]]), "popular": np.array([[1, 2]])}
    truth = Truth(np.array([0, 1]), np.array([0]))
    report = judge(lists, truth, main="longtail", n_items=40, item_popularity=np.full(40, 3), resamples=20)
    given = (report, Data("shop", "f00d", 1, 1, 40, "", ""), Training({}, ["ease"], 1, "abc"))
    read = BiasReport.from_json(found[0].to_json())
    assert read == found[0]
    text = model_card(*given, read)
    assert "| House | 50.0% | 50.0% |" in text
    assert "- Supplier (brand) House gets more places" in text
    page = card_page(text, "Model <card>")
    assert "<td>House</td>" in page and "Model &lt;card&gt;" in page and "region: &lt;north&gt;" in page
    data = json.loads(card_data(*given, read))
    assert data["bias"] == found[0].findings() and data["data"]["fingerprint"] == "f00d"
