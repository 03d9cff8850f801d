"""Lists made ahead against the real servers: the same lists, then those lists; and a surfaces file that changes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from longtail.cli.app import app
from longtail.engine.parts import Bundle
from longtail.errors import Unavailable
from serving.local import LocalServing
from serving.ranker.triton import wheel

pytestmark = pytest.mark.serving

try:
    wheel()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

WAIT_S = 60.0
SURFACES = """
rules:
  caps: {category: 3}
  diversity: {lambda: 0.9}
surfaces:
  email: {k: %d}
"""


@pytest.fixture(scope="module")
def running(bundle_folder, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    surfaces = state / "surfaces.yaml"
    surfaces.write_text(SURFACES % 8)
    extra = ["--lists", f"sqlite://{state}/lists.db", "--surfaces", str(surfaces)]
    with LocalServing(bundle_folder, state, clock="data", extra=extra, supervise=False) as serving:
        yield serving, surfaces


def asked(serving, bundle, user, surface="email"):
    """The full list of a request at the moment when the bundle's data ends.

    A busy machine may be late with a part and get a list of a lower rung, as it should: then it is asked again.
    """
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=bundle.as_of)
    instance = {"user_id": user, "surface": surface, "context": {"timestamp": moment.isoformat()}}
    end = time.monotonic() + WAIT_S
    while True:
        answer = serving.recommend(instance)
        if (answer["level"] == "full" and not answer.get("cause")) or time.monotonic() > end:
            return answer
        time.sleep(0.2)


def test_servers_and_precompute_make_the_same_lists_and_the_store_takes_over(running, bundle_folder, tmp_path):
    serving, surfaces = running
    bundle = Bundle.open(bundle_folder)
    users = [f"u{n}" for n in range(0, 80, 4)]
    before = {user: asked(serving, bundle, user) for user in users}
    assert {(a["level"], a["made"]) for a in before.values()} == {("full", "live")}

    arguments = ["precompute", bundle_folder, "--state", serving.state, "--out", tmp_path, "--surfaces", surfaces,
                 "--clock", "data", "--key-file", tmp_path / "none.key"]  # fmt: skip
    app([str(a) for a in arguments], prog_name="longtail", standalone_mode=False)
    rows = {row["user_id"]: row for row in pq.read_table(tmp_path / "email.parquet").to_pylist()}
    for user, answer in before.items():
        assert rows[user]["items"] == [i["item_id"] for i in answer["items"]]
        assert rows[user]["sources"] == [i["source"] for i in answer["items"]]
        assert np.array_equal(np.float32(rows[user]["scores"]), np.float32([i["score"] for i in answer["items"]]))

    for user in users:
        answer = asked(serving, bundle, user)
        assert (answer["level"], answer["made"]) == ("full", "precomputed")
        assert [i["item_id"] for i in answer["items"]] == rows[user]["items"]


def test_a_changed_surfaces_file_takes_over_and_a_wrong_one_does_not(running, bundle_folder):
    serving, surfaces = running
    bundle = Bundle.open(bundle_folder)

    def places(surface="email"):
        return len(asked(serving, bundle, "u1", surface)["items"])

    def until(k):
        end = time.monotonic() + WAIT_S
        while places() != k and time.monotonic() < end:
            time.sleep(0.2)
        return places()

    assert places() == 8
    surfaces.write_text(SURFACES % 5)
    assert until(5) == 5
    surfaces.write_text("surfaces:\n  email: {kk: 3}\n")
    time.sleep(4)
    assert places() == 5
    surfaces.write_text(SURFACES % 6 + "  widget: {k: 3}\n")
    assert until(6) == 6 and places("widget") == 3
