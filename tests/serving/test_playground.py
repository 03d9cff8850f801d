"""The playground in a real browser: real servers for what it shows, a stand-in for what servers do wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from selenium.webdriver.common.keys import Keys

from longtail.errors import Unavailable
from longtail.identity import Pseudonymiser, load_key
from serving.collector.local import LocalCollector
from serving.local import LocalServing
from serving.playground.local import LocalPlayground
from serving.process import LOOPBACK, free_port
from serving.ranker.triton import wheel
from tests.serving import browser as browsing
from tests.serving import small_bundle
from tests.serving.screenshots import before_and_after
from tests.serving.stand_in import StandIn

pytestmark = pytest.mark.serving
ROOT = Path(__file__).resolve().parents[2]
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script> "\'&amp;'


@pytest.fixture(scope="module")
def page():
    if reason := browsing.missing():
        pytest.skip(reason)
    with browsing.browser() as found:
        yield found


@pytest.fixture(scope="module")
def shop(bundle_folder, tmp_path_factory) -> Path:
    """The bundle with a catalogue of the worst kind: markup in titles, broken pictures, nothing known at all."""
    folder = tmp_path_factory.mktemp("evil") / "bundle"
    shutil.copytree(bundle_folder, folder)
    path = folder / "catalogue" / "items.parquet"
    items = pd.read_parquet(path)
    items.loc[::3, ["title", "brand", "category"]] = EVIL
    items.loc[1::3, ["title", "brand", "category", "price"]] = None
    items["image_url"] = None
    items.loc[::4, "image_url"] = "javascript:window.hacked=3"
    items.loc[1::4, "image_url"] = "http://127.0.0.1:1/none.png"
    items.to_parquet(path, index=False)
    return folder


@pytest.fixture(scope="module")
def stand_in(bundle_folder):
    items = pd.read_parquet(bundle_folder / "catalogue" / "items.parquet")
    server = StandIn(list(zip(items["item_id"], items["category"], strict=True))).start()
    yield server
    server.stop()


@pytest.fixture
def told(stand_in):
    """The stand-in, as new."""
    stand_in.twist, stand_in.lag, stand_in.events, stand_in.asked = (lambda answer: answer), 0, [], []
    yield stand_in
    if stand_in._server is None:
        stand_in.start()


@pytest.fixture(scope="module")
def address(shop, stand_in, tmp_path_factory):
    log = tmp_path_factory.mktemp("playground") / "log.txt"
    with LocalPlayground(shop, stand_in.url, log) as found:
        yield found.wait()


@pytest.fixture(scope="module")
def collecting(bundle_folder, stand_in, tmp_path_factory):
    """A playground whose clicks go to a collector."""
    log = tmp_path_factory.mktemp("playground") / "log.txt"
    with LocalPlayground(bundle_folder, stand_in.url, log, collector=stand_in.url) as found:
        yield found.wait()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A playground in front of the real servers, the collector among them, for a shop whose people are pseudonyms."""
    try:
        wheel()
    except Unavailable as reason:
        pytest.skip(str(reason))
    root = tmp_path_factory.mktemp("real")
    key = root / "key"
    names = Pseudonymiser(load_key(key))
    plain = small_bundle.shop()
    bundle = small_bundle.make(root / "bundle", replace(plain, user_ids=np.array(names.of_all(plain.user_ids), object)))
    collector = LocalCollector(root / "collector", key)
    serving = LocalServing(
        bundle, root / "state", clock="data", pseudonym_key=key, extra=["--seed", "1", "--live", collector.live]
    )
    url = f"http://{LOOPBACK}:{serving.http_port}"
    with collector, LocalPlayground(bundle, url, root / "playground.log", collector.url) as playground, serving:
        collector.wait()
        yield playground.wait()


def ask(url: str, body: object = None, **headers: str) -> tuple[int, dict, dict]:
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, raw, {"content-type": "application/json", **headers} if raw else headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, dict(reply.headers), json.loads(reply.read() or b"{}")
    except urllib.error.HTTPError as error:
        raw = error.read()
        return error.code, dict(error.headers), json.loads(raw) if raw.startswith(b"{") else {}


def test_somebody_known_clicks_sees_the_next_list_and_why(real, page):
    page.open(real)
    assert len(page.shown()) == 20 and page.text("#heading") == "Homepage"
    strangers = page.shown()

    page.click("#choose")
    page.until(lambda: page.all(".found .card"), what="people")
    page.press("north")
    page.until(lambda: all("north" in text for text in page.texts(".found .card")), what="people of the north")
    page.click(".found .card")
    page.wait()
    assert page.all("#strip .thumb") and "likes" in page.text("#person")
    assert page.shown() != strangers  # the recommender knows the pseudonym although it has a key
    assert page.one(".level").get_attribute("data-level") == "full"

    took, before = [], page.shown()
    for n, kind in ((8, "click"), (9, "click"), (12, "purchase")):  # one click may confirm what the list holds anyway
        page.click(f".tile [data-do={kind}]", n)
        page.wait()
        took += [float(page.text("#after").split()[0])] if page.all("#after") else []
    assert len(page.all("#strip .thumb i")) == 3
    assert page.shown() != before and took
    assert not page.one("#notice").is_displayed(), page.text("#notice")

    page.click(".tile .reason", 2)
    page.until(lambda: page.all("#trace .bars li"), what="trace")
    trace = page.text("#trace")
    for part in (
        "Time", "retriever", "ranker", "rerank", "ranker score", "Scored by", "Most unusual features", "Rules",
        "Candidates by source", "candidates",
    ):  # fmt: skip
        assert part in trace, part
    page.click("#trace .raw summary")
    page.until(lambda: page.text("#trace pre").startswith("{"))
    answer = json.loads(page.text("#trace pre"))
    assert answer["items"][2]["item_id"] == page.shown()[2]
    ranks = [said["rank"] for item in answer["trace"]["items"] for said in item["sources"].values()]
    assert min(ranks) == 1  # the best of a source is its first
    assert page.complaints() == []


def test_every_surface_that_the_server_knows_gives_a_list(real, page):
    page.open(real)
    names = [button.get_attribute("data-surface") for button in page.all("#surfaces button")]
    assert "homepage" in names and len(names) > 4
    for name in names[1:]:
        page.click(f"#surfaces [data-surface={name}]")
        page.wait()
        assert page.shown(), name
        assert page.one(f"[data-surface={name}]").get_attribute("aria-current") == "page"
        assert not page.one("#notice").is_displayed(), page.text("#notice")


def test_pictures_before_and_after_a_click_for_the_docs(real, page, tmp_path):
    before, after, trace = before_and_after(page, real, tmp_path)
    assert len({path.read_bytes() for path in (before, after, trace)}) == 3


def test_what_a_catalogue_holds_stays_text(address, told, page):
    page.open(address)
    page.click(".tile .reason")
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('.tile img[src=x], .tile script').length") == 0
    titles = page.texts(".tile .name")
    assert any(title == EVIL for title in titles)
    assert any(title.startswith("i") for title in titles)  # without a title the id stands in
    # A broken picture and one whose address is no address are drawn instead.
    page.until(lambda: len(page.all(".tile .frame > svg.picture")) == len(page.all(".tile")), what="drawn pictures")


def test_the_keyboard_alone_is_enough(address, told, page):
    page.open(address)
    page.run("document.querySelector('.tile').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    third = page.shown()[2]
    assert page.run("return document.activeElement.dataset.item") == third
    page.press(Keys.ENTER)
    page.wait()
    assert told.asked[-1]["context"]["events"] == [{"item_id": third, "event_type": "click"}]
    page.press("b")
    page.wait()
    assert told.asked[-1]["context"]["events"][1]["event_type"] == "purchase"
    page.press("w")
    page.until(lambda: page.one("#trace").is_displayed(), what="trace")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.one("#trace").is_displayed(), what="end of the trace")
    page.press("p")
    page.until(lambda: page.all(".found .card"), what="people")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    page.wait()
    assert told.asked[-1]["user_id"].startswith("pseudonym:")
    page.press("n")
    page.wait()
    assert told.asked[-1]["user_id"].startswith("new-") and told.asked[-1]["context"]["events"] == []


def test_the_recommender_goes_away_and_the_page_recovers_by_itself(address, told, page):
    page.open(address)
    before = page.shown()
    told.stop()
    page.click(".tile [data-do=click]")
    page.until(lambda: "does not answer: run `longtail serve`" in page.text("#notice"), what="notice")
    assert page.shown() == before  # what was there stays to look at
    page.until(lambda: "away" in page.text("#servers"), what="state of the server")
    told.start()
    page.wait()
    page.until(lambda: not page.one("#notice").is_displayed(), what="end of the notice")
    assert "ready" in page.text("#servers")
    assert len(told.asked[-1]["context"]["events"]) == 1  # the click made meanwhile is not lost


@pytest.mark.parametrize(
    ("twisted", "said"),
    [
        (lambda a: 400, "refused: told to say 400"),
        (lambda a: 429, "busy"),
        (lambda a: 500, "failed with 500: told to say 500"),
        (lambda a: b"<html>", "did not answer in JSON"),
        (lambda a: {"predictions": []}, "answers in another format"),
        (lambda a: [1], "answers in another format"),
    ],
    ids=["400", "429", "500", "no JSON", "no list", "a list of numbers"],
)
def test_each_wrong_answer_is_one_line_and_the_page_goes_on(address, told, page, twisted, said):
    page.open(address)
    told.twist = twisted
    page.click(".tile [data-do=click]")
    page.until(lambda: said in page.text("#notice"), what=said)
    assert "\n" not in page.text("#notice") and page.shown()
    told.twist = lambda answer: answer
    page.click(".tile [data-do=click]", 1)
    page.wait()
    page.until(lambda: not page.one("#notice").is_displayed(), what="end of the notice")


def test_an_answer_with_nothing_but_items_is_shown_and_so_is_an_empty_list(address, told, page):
    def bare(answer):
        keep = {"item_id": "i3"}
        return {"predictions": [{"items": [keep, {"item_id": "not-in-the-catalogue"}]}]}

    told.twist = bare
    page.open(address)
    page.click(".tile .reason")
    assert page.shown() == ["i3", "not-in-the-catalogue"]
    assert "carries no timings" in page.text("#trace")
    told.twist = lambda answer: {"predictions": [answer["predictions"][0] | {"items": [], "level": "popular"}]}
    page.click("#fresh")
    page.wait()
    assert "This list is empty" in page.text("#list")
    assert page.one(".level").get_attribute("data-level") == "popular"
    assert [line for line in page.complaints() if "SEVERE" in line and "Uncaught" in line] == []


def test_with_a_collector_the_click_goes_there_and_the_page_says_when_it_showed(collecting, told, page):
    told.lag = 2  # two lists still without the click: the page asks again
    page.open(collecting)
    page.click(".tile [data-do=add_to_cart]", 3)
    page.wait()
    (event,) = told.events
    assert event["event_type"] == "add_to_cart" and event["position"] == 3
    assert len(event["event_id"]) >= 32 and event["request_id"] and event["session_id"]
    assert told.asked[-1]["context"]["events"] == []
    assert "changed the list after" in page.text("#change")
    assert "1 event of this session" in page.text("#person")
    assert float(page.text("#after").split()[0]) > 0


def test_a_click_that_the_collector_does_not_take_is_kept(collecting, told, page):
    page.open(collecting)
    clicked = page.shown()[0]
    told.stop()
    page.click(".tile [data-do=click]")
    page.until(lambda: page.one("#notice").is_displayed(), what="notice")
    told.start()
    page.until(lambda: told.events, what="event at the collector")
    page.wait()
    assert [event["item_id"] for event in told.events] == [clicked]


def test_it_fits_a_phone_and_keeps_to_the_dark(address, told, page):
    page.resize(390, 844, 2)
    page.dark()
    try:
        page.open(address)
        page.click(".tile .reason")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        light = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(light[:3]) < 60
    finally:
        page.dark(False)
        page.resize(*browsing.SIZE)


def test_the_page_is_light_asks_once_a_click_and_loads_nothing_from_elsewhere(address, told, page):
    page.open(address)
    for n in range(3):
        page.click(".tile [data-do=click]", n)
        page.wait()
    assert len(told.asked) == 4
    weight = page.run("return performance.getEntriesByType('resource').filter(e => !e.name.includes('/api/'))"
                      ".reduce((sum, e) => sum + e.encodedBodySize, 0)")  # fmt: skip
    assert weight < 160_000
    hosts = page.run("return performance.getEntriesByType('resource').map(e => new URL(e.name).host)")
    assert {host for host in hosts if host != "127.0.0.1:1"} == {address.split("/")[2]}


def test_only_this_machine_and_its_own_page_may_ask(address, told):
    body = {"k": 2}
    assert ask(address + "api/recommend", body)[0] == 200
    assert ask(address + "api/recommend", body, host="evil.example")[0] == 400
    code, _, said = ask(address + "api/recommend", body, origin="http://evil.example")
    assert code == 400 and "another site" in said["error"]
    assert ask(address + "api/recommend", body, **{"content-type": "text/plain"})[0] == 400
    policy = ask(address + "api/state")[1]["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("api/recommend", b"{" + b" " * 300_000 + b"}", "at most 256 KiB"),
        ("api/recommend", b"[" * 100_000, "is not JSON"),
        ("api/recommend", [1], "must be a JSON object"),
        ("api/recommend", {"k": 500}, "at most 100"),
        ("api/events", {"events": [{}]}, "no collector"),
        ("api/items?ids=" + ",".join(map(str, range(300))), None, "at most 200"),
        ("api/users?limit=0", None, "a number from 1"),
        ("api/users?limit=x", None, "a number from 1"),
    ],
)
def test_what_is_too_much_is_refused_in_one_line(address, path, body, said):
    code, _, answer = ask(address + path, body)
    assert code == 400 and said in answer["error"] and "\n" not in answer["error"]


def test_people_are_found_by_pseudonym_region_and_taste(address, told):
    everybody = ask(address + "api/users?limit=60")[2]["users"]
    some = everybody[3]
    assert some["events"] > 0 and some["last"] and len({user["user_id"] for user in everybody}) == len(everybody)
    assert ask(address + f"api/users?q={some['user_id']}")[2]["users"][0] == some
    assert {user["segment"] for user in ask(address + "api/users?q=south")[2]["users"]} == {"south"}
    assert ask(address + "api/users?q=nobody-at-all")[2]["users"] == []
    assert ask(address + "api/items?ids=i4,unknown")[2].keys() <= {"i4"}


def test_without_a_recommender_and_on_a_taken_port_it_says_so_in_one_line(shop, stand_in, tmp_path):
    nobody = f"http://{LOOPBACK}:{free_port()}"
    log = tmp_path / "log.txt"
    with LocalPlayground(shop, nobody, log) as found:
        code, _, answer = ask(found.wait() + "api/recommend", {"k": 1})
        assert code == 503 and answer["error"].endswith("does not answer: run `longtail serve`")
        said = [line for line in log.read_text().splitlines() if "longtail:" in line]
        assert said == [
            f"longtail: the recommender at {nobody} does not answer: run `longtail serve`; the page waits for it"
        ]
    for port, why in ((stand_in.port, "is taken"), (70_000, "a port is a number from 0")):
        words = [sys.executable, "-m", "longtail.cli", "playground", "--bundle", str(shop), "--port", str(port)]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ)
        assert ended.returncode == 2 and why in ended.stderr and len(ended.stderr.splitlines()) == 1
