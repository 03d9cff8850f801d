"""Lists made before anybody asks are those that a request would get, whatever they are made beside."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from longtail.cli.app import app
from longtail.engine.engine import Engine
from longtail.engine.lists import open_lists
from longtail.engine.online import StoredPeople, lay_out
from longtail.engine.parts import Bundle
from longtail.engine.precompute import (
    SCHEMA,
    engine_of,
    everybody,
    local_hops,
    precompute,
    surfaces_to_make,
)
from longtail.engine.schema import Instance
from longtail.errors import InvalidInput, Unavailable
from longtail.surfaces import Surfaces

RULES = """
rules:
  caps: {category: 2}
  diversity: {lambda: 0.8}
  exploration: {epsilon: 0.5}
  boosts: [{name: b, brand: b1, factor: 2}]
surfaces:
  email: {k: 6}
  widget: {k: 4, anchor: last_viewed, order: blend, made: precomputed}
"""


@pytest.fixture(scope="module")
def parts(bundle_folder, tmp_path_factory):
    bundle = Bundle.open(bundle_folder)
    people = StoredPeople(bundle, lay_out(bundle, tmp_path_factory.mktemp("state")))
    surfaces = Surfaces.parse(RULES).bind(bundle.catalogue, bundle.sources)
    return bundle, people, local_hops(bundle), surfaces


def write(parts, out, name="email", users=None, store=None, chunk=7, k=None, seen=None):
    bundle, people, hops, surfaces = parts
    engine = engine_of(bundle, people, hops, bundle.as_of, 50, surfaces, chunk)
    (surface,) = surfaces_to_make(surfaces, [name])
    users = everybody(bundle.folder)[1] if users is None else users
    progress = (lambda n: None) if seen is None else seen.append
    return asyncio.run(precompute(engine, surface, users, out, store, k, progress))


def served(parts, name, user):
    """What a request gets from an engine as the servers run it, with the same clock and no exploration."""
    bundle, people, hops, surfaces = parts
    rules = surfaces[name].rules
    calm = rules.rules.model_copy(update={"exploration": rules.rules.exploration.model_copy(update={"epsilon": 0.0})})
    engine = Engine(bundle, people, *hops, lambda: bundle.as_of, np.random.default_rng(5))
    engine.config = replace(engine.config, candidates=50)
    engine = Engine(bundle, people, *hops, lambda: bundle.as_of, np.random.default_rng(5), engine.config)
    asked = replace(surfaces[name], rules=replace(rules, rules=calm), made="live")
    engine.surfaces = replace(surfaces, surfaces={name: asked})
    return asyncio.run(engine.recommend([Instance(user_id=user, surface=name)]))[0]


@pytest.mark.parametrize("name", ["email", "widget"])
def test_every_list_is_the_one_that_a_request_would_get(parts, tmp_path, name):
    made = write(parts, tmp_path, name)
    rows = pq.read_table(made.path).to_pylist()
    count, users = everybody(parts[0].folder)
    assert made.lists == len(rows) == count == 80 and [r["user_id"] for r in rows] == list(users)
    for row in rows:
        answer = served(parts, name, row["user_id"])
        assert answer.level == "full"
        assert row["items"] == [i.item_id for i in answer.items]
        assert row["sources"] == [i.source for i in answer.items]
        assert row["reasons"] == [i.reason for i in answer.items]
        assert np.array_equal(np.float32(row["scores"]), np.float32([i.score for i in answer.items]))
        assert row["model_version"] == answer.model_version and row["surface"] == name
        assert len(row["items"]) == {"email": 6, "widget": 4}[name]


def test_lists_do_not_depend_on_the_chunk(parts, tmp_path):
    tables = [pq.read_table(write(parts, tmp_path / str(n), chunk=n).path) for n in (1, 30, 1000)]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    assert tables[0].schema.equals(SCHEMA)


def test_the_store_answers_what_the_file_says(parts, tmp_path):
    url = f"sqlite://{tmp_path}/lists.db"
    made = write(parts, tmp_path, store=open_lists(url))
    rows = pq.read_table(made.path).to_pylist()

    async def read():
        store = open_lists(url)
        return [await store.get(row["user_id"], "email") for row in rows]

    for row, found in zip(rows, asyncio.run(read()), strict=True):
        assert (found.items, found.sources) == (row["items"], row["sources"])
        assert np.array_equal(np.float32(found.scores), np.float32(row["scores"]))
        assert found.model_version == row["model_version"]
        assert found.codes == parts[0].codes.find(found.items).tolist() and -1 not in found.codes
        assert found.time_us == parts[0].as_of == row["time"].timestamp() * 1e6


def test_the_engine_serves_what_was_stored(parts, tmp_path):
    bundle, people, hops, surfaces = parts
    store = open_lists(f"sqlite://{tmp_path}/lists.db")
    made = write(parts, tmp_path, users=["u3", "u4"], store=store)
    rows = {row["user_id"]: row["items"] for row in pq.read_table(made.path).to_pylist()}
    engine = Engine(bundle, people, *hops, lambda: bundle.as_of, np.random.default_rng(0), lists=store)
    engine.surfaces = surfaces
    for user in rows:
        (answer,) = asyncio.run(engine.recommend([Instance(user_id=user, surface="email")]))
        assert (answer.made, answer.level) == ("precomputed", "full")
        assert [i.item_id for i in answer.items] == rows[user]


def test_progress_counts_people_and_a_chosen_length_holds(parts, tmp_path):
    seen: list[int] = []
    made = write(parts, tmp_path, users=[f"u{n}" for n in range(20)], k=3, chunk=8, seen=seen)
    assert seen == [8, 16, 20]
    assert {len(row["items"]) for row in pq.read_table(made.path).to_pylist()} == {3}


def test_a_stage_that_fails_ends_the_run_and_leaves_the_lists_of_the_last_one(parts, tmp_path):
    before = write(parts, tmp_path).path.read_bytes()
    bundle, people, (retrieve, score), surfaces = parts
    calls = []

    async def breaks(features):
        calls.append(len(features))
        if len(calls) > 2:
            raise MemoryError
        return await score(features)

    with pytest.raises(Unavailable, match=r"email: a stage of the engine failed \(ranker: MemoryError\)"):
        write((bundle, people, (retrieve, breaks), surfaces), tmp_path)
    assert len(calls) > 2
    assert (tmp_path / "email.parquet").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["email.parquet"]


def test_nobody_is_a_file_without_rows(parts, tmp_path):
    made = write(parts, tmp_path, users=[])
    assert made.lists == 0 and pq.read_table(made.path).num_rows == 0


def test_only_surfaces_that_need_no_request_can_be_made_before(parts):
    surfaces = parts[3]
    assert [s.name for s in surfaces_to_make(surfaces)] == ["email", "widget"]
    assert [s.name for s in surfaces_to_make(surfaces, ["homepage"])] == ["homepage"]
    for name in ("cart", "category_page"):
        with pytest.raises(InvalidInput, match=f"surface {name}: its lists depend on the request"):
            surfaces_to_make(surfaces, [name])
    with pytest.raises(InvalidInput, match="there is no 'e-mail'"):
        surfaces_to_make(surfaces, ["e-mail"])


def longtail(*arguments) -> tuple[int, str]:
    """Exit code and output of the command."""
    import contextlib

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = app([str(a) for a in arguments], prog_name="longtail", standalone_mode=False)
    return code or 0, out.getvalue()


def test_the_command_writes_files_and_store_for_chosen_people(bundle_folder, tmp_path):
    people = tmp_path / "people.txt"
    people.write_text("u3\n\nu5\nu3\nnobody\n")
    config = tmp_path / "surfaces.yaml"
    config.write_text(RULES)
    code, said = longtail(
        "precompute", bundle_folder, "--users", people, "--out", tmp_path / "lists", "--state", tmp_path / "state",
        "--surfaces", config, "--key-file", tmp_path / "none.key", "--clock", "data", "--candidates", 50,
    )  # fmt: skip
    assert code == 0 and "email: 3 lists in" in said and "widget: 3 lists in" in said
    rows = pq.read_table(tmp_path / "lists" / "email.parquet").to_pylist()
    assert [row["user_id"] for row in rows] == ["u3", "u5", "nobody"]

    async def read():
        return await open_lists(f"sqlite://{tmp_path}/state/lists.db").get("u5", "widget")

    assert len(asyncio.run(read()).items) == 4


def test_ids_of_the_shop_are_looked_up_by_their_pseudonyms(tmp_path):
    from longtail.cli.precompute import pseudonyms
    from longtail.identity import Pseudonymiser, load_key

    (tmp_path / "people.txt").write_text("anna\nbob\nanna\n")
    key = load_key(tmp_path / "key")
    assert pseudonyms(tmp_path / "people.txt", tmp_path / "key") == Pseudonymiser(key).of_all(["anna", "bob"])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InvalidInput, match="names nobody"):
        pseudonyms(tmp_path / "empty.txt", tmp_path / "key")
    with pytest.raises(InvalidInput, match="cannot be read"):
        pseudonyms(tmp_path / "none.txt", tmp_path / "key")
