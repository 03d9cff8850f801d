import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail.errors import InvalidBundle, InvalidInput
from longtail.events import Catalogue, Histories, Log, Requests
from longtail.events.log import histories_before
from longtail.retrieval.two_tower import TwoTower, TwoTowerConfig
from longtail.schema import DAY_US

ITEMS, MINUTE = 30, 60_000_000
QUICK = TwoTowerConfig(dim=16, layers=1, last=8, dropout=0.0, epochs=12, patience=12, batch_targets=256,
                       learning_rate=0.01, validation_users=20)  # fmt: skip
SHORT = replace(QUICK, epochs=5, dropout=0.1)


def cyclic_log(users: int = 150, length: int = 12, seed: int = 0) -> Log:
    """After item i comes item i + 1, round and round; each person starts somewhere."""
    rng = np.random.default_rng(seed)
    item = (rng.integers(ITEMS, size=users)[:, None] + np.arange(length)) % ITEMS
    n = users * length
    time = np.tile(np.arange(length), users) * MINUTE + 20_000 * DAY_US
    one = np.ones(n, np.float32)
    user = np.repeat(np.arange(users), length).astype(np.int32)
    none, unknown = np.full(n, -1, np.int32), np.full(n, np.nan, np.float32)
    return Log(user, item.ravel().astype(np.int32), time, np.full(n, 2, np.int8), one, one, one, user, none,
               none.astype(np.int16), unknown, users, ITEMS)  # fmt: skip


def catalogue(n: int = ITEMS) -> Catalogue:
    """Neighbours on the circle share a category."""
    at = np.arange(n)
    return Catalogue.from_frame(pd.DataFrame({
        "item_id": [f"i{i}" for i in at], "category": [f"c{i // 5}/s" for i in at], "brand": [f"b{i // 2}" for i in at],
        "price": at.astype(float), "title": [f"word{i // 3} thing" for i in at],
        "created_at": pd.to_datetime(20_000 - at, unit="D", utc=True),
    }))  # fmt: skip


def train(folder: Path, config: TwoTowerConfig = QUICK, log: Log | None = None) -> dict:
    from longtail.retrieval.two_tower_training import train_two_tower

    log = cyclic_log() if log is None else log
    return train_two_tower(log, catalogue(log.n_items), np.arange(log.n_users, dtype=np.int32) % 3, config, folder, 0)


def requests(log: Log, users: np.ndarray) -> Requests:
    times = np.full(len(users), log.time.max() + MINUTE)
    history = histories_before(log, users, times)
    return Requests(times, users.astype(np.int32), np.full(len(users), -1, np.int32), history)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def tower(folder: Path) -> TwoTower:
    return TwoTower.load(folder)


def test_learns_what_comes_next_from_the_order_of_the_history(tower: TwoTower) -> None:
    log = cyclic_log(seed=5)  # people it never saw
    asked = requests(log, np.arange(100))
    newest = asked.history.item[asked.history.indptr[1:] - 1]
    ids, _ = tower.retrieve(asked, 1)
    assert np.mean(ids[:, 0] == (newest + 1) % ITEMS) > 0.95


def test_a_score_does_not_depend_on_the_batch_it_was_computed_in(tower: TwoTower) -> None:
    asked = requests(cyclic_log(), np.arange(64))
    users = tower.user_vectors(asked)
    for b in range(0, 64, 7):
        np.testing.assert_array_equal(tower.user_vectors(asked.take(np.array([b])))[0], users[b])
    answer = tower.answer(asked)
    rows, items = np.repeat(np.arange(64), ITEMS), np.tile(np.arange(ITEMS), 64)
    together = answer.at(rows, items)
    picked = np.random.default_rng(0).permutation(len(rows))[:101]
    np.testing.assert_array_equal(answer.at(rows[picked], items[picked]), together[picked])
    alone = tower.answer(asked.take(np.array([63]))).at(np.array([0]), np.array([4]))
    np.testing.assert_array_equal(alone, together[63 * ITEMS + 4])


def test_top_is_the_best_of_at_with_its_very_scores(tower: TwoTower) -> None:
    answer = tower.answer(requests(cyclic_log(), np.arange(5)))
    ids, scores = answer.top(ITEMS + 3)
    assert (ids[:, ITEMS:] == -1).all() and np.isneginf(scores[:, ITEMS:]).all()
    rows = np.repeat(np.arange(5), ITEMS)
    np.testing.assert_array_equal(answer.at(rows, ids[:, :ITEMS].ravel()), scores[:, :ITEMS].ravel())
    assert (np.diff(scores[:, :ITEMS], axis=1) <= 0).all()
    assert (np.sort(ids[:, :ITEMS], axis=1) == np.arange(ITEMS)).all()


def test_serves_strangers_empty_batches_and_unknown_segments(tower: TwoTower) -> None:
    n = 3
    asked = Requests(np.full(n, 20_001 * DAY_US), np.full(n, -1, np.int32), np.array([-1, 2, 99], np.int32),
                     Histories.empty(n))  # fmt: skip
    ids, scores = tower.retrieve(asked, 4)
    assert (ids >= 0).all() and np.isfinite(scores).all()
    np.testing.assert_array_equal(ids[0], ids[2])
    none = asked.take(np.array([], np.int64))
    assert tower.retrieve(none, 4)[0].shape == (0, 4)


def test_only_the_newest_events_are_read(tower: TwoTower) -> None:
    log = cyclic_log()
    asked = requests(log, np.arange(10))
    short = Requests(asked.time, asked.user, asked.segment,
                     histories_before(log, asked.user, asked.time, last=QUICK.last))  # fmt: skip
    np.testing.assert_array_equal(tower.user_vectors(asked), tower.user_vectors(short))


def test_saved_loaded_and_pickled_it_answers_the_same(tower: TwoTower, tmp_path: Path) -> None:
    tower.save(tmp_path)
    asked = requests(cyclic_log(), np.arange(5))
    for other in (TwoTower.load(tmp_path), pickle.loads(pickle.dumps(tower))):
        np.testing.assert_array_equal(tower.retrieve(asked, 7)[1], other.retrieve(asked, 7)[1])
    (tmp_path / "item_vectors.npy").unlink()
    with pytest.raises(InvalidBundle, match="item_vectors.npy"):
        TwoTower.load(tmp_path)


def test_the_exported_tower_equals_the_trained_one(tmp_path: Path) -> None:
    import torch

    from longtail.retrieval.two_tower import encode
    from longtail.retrieval.two_tower_training import Trainer

    log = cyclic_log()
    config = replace(QUICK, layers=2)  # the exported one reads one place of the last, all places of the others
    trainer = Trainer(log, catalogue(), np.zeros(log.n_users, np.int32), config, tmp_path, 0)
    for block in trainer.users.blocks:
        torch.nn.init.normal_(block.distance)
    trainer.best_weights = trainer.modules.state_dict()
    trainer.export()
    who, times = np.arange(5), log.time.min() + np.array([0, 1, 5, 8, 12]) * MINUTE  # so many events before
    asked = Requests(times, who.astype(np.int32), np.full(5, -1, np.int32), histories_before(log, who, times))
    vectors, names = trainer.vectors(), ("kind", "gap", "length", "since", "segment", "hour", "weekday")
    for b, found in enumerate(TwoTower.load(tmp_path).user_vectors(asked)):
        inputs = encode(asked, b, QUICK.last, trainer.segments, steps=QUICK.last)
        n = int(inputs["length"][0])
        history = np.zeros((1, QUICK.last, QUICK.dim), np.float32)  # trained with places that are not filled
        history[0, :n] = vectors[asked.history.item[asked.history.indptr[b + 1] - n : asked.history.indptr[b + 1]]]
        with torch.no_grad():
            kind, gap, length, *context = (torch.as_tensor(inputs[name]) for name in names)
            states = trainer.users.states(torch.as_tensor(history), kind, gap)
            own = trainer.users.vector(states[:, int(length)], *context)
        np.testing.assert_allclose(found, own.numpy()[0], atol=1e-5)


def test_a_new_item_gets_a_vector_from_its_content(tower: TwoTower) -> None:
    frame = catalogue().frame.copy()
    frame["item_id"] = "new-" + frame["item_id"]
    new = tower.encode_items(Catalogue.from_frame(frame), tower.config["as_of"])
    known = np.asarray(tower.item_vectors)
    assert new.shape == known.shape and new.dtype == np.float32
    closest = np.argmax(new @ known.T, axis=1)
    away = np.abs(closest - np.arange(ITEMS))
    assert np.mean(np.minimum(away, ITEMS - away) <= 2) > 0.9
    blank = tower.encode_items(Catalogue.from_frame(pd.DataFrame({"item_id": ["x"]})), tower.config["as_of"])
    assert (blank == 0).all()


def test_a_catalogue_item_without_events_is_its_content(tmp_path: Path) -> None:
    log = cyclic_log()
    log = log.select(log.item != 7)
    train(tmp_path, QUICK, log)
    tower = TwoTower.load(tmp_path)
    content = tower.encode_items(catalogue(), tower.config["as_of"])
    np.testing.assert_allclose(tower.item_vectors[7], content[7], atol=1e-5)


@pytest.mark.slow
def test_sampled_negatives_learn_it_too_and_the_correction_is_right(tmp_path: Path) -> None:
    config = replace(QUICK, full_softmax_items=0, in_batch_negatives=16, uniform_negatives=8, epochs=16)
    figures = train(tmp_path, config)
    assert figures["validation_ndcg"] > 0.9


def test_the_loss_and_its_gradients_are_those_of_cross_entropy() -> None:
    import torch

    from longtail.retrieval.two_tower_model import SampledSoftmax

    torch.manual_seed(0)
    users, items = torch.randn(700, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    target, weight = torch.randint(20, (700,)), torch.rand(700)
    weight = weight / weight.sum()
    plain = (torch.nn.functional.cross_entropy(2 * users @ items.T, target, reduction="none") * weight).sum()
    expected = torch.autograd.grad(plain, (users, items))
    ours = SampledSoftmax.apply(users, items[target], items, torch.zeros(20), target, weight, 2.0, False)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(torch.autograd.grad(ours, (users, items)), expected, strict=True):
        torch.testing.assert_close(a, b)


def killed(folder: Path, config: TwoTowerConfig) -> None:
    """A training that is killed behind its third epoch."""
    script = textwrap.dedent("""
        import json, os, signal, sys
        sys.path.insert(0, sys.argv[2])
        import test_two_tower as t
        from longtail.retrieval import two_tower_training as training
        save = training.Trainer._save
        def saving(self):
            save(self)
            if self.run.epoch == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        training.Trainer._save = saving
        t.train(t.Path(sys.argv[1]), t.TwoTowerConfig(**json.loads(sys.argv[3])))
    """)
    command = [sys.executable, "-c", script, str(folder), str(Path(__file__).parent), json.dumps(asdict(config))]
    ended = subprocess.run(command, capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL and (folder / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_killed_and_resumed_ends_as_if_never_killed(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    killed(tmp_path / "killed", SHORT)
    train(tmp_path / "killed", SHORT)
    said = capfd.readouterr().err
    assert "epoch 4/" in said and "epoch 3/" not in said
    train(tmp_path / "whole", SHORT)
    for name in ("item_vectors.npy", "content_table.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "killed" / name), np.load(tmp_path / "whole" / name))
    asked = requests(cyclic_log(), np.arange(5))
    a, b = TwoTower.load(tmp_path / "killed"), TwoTower.load(tmp_path / "whole")
    np.testing.assert_array_equal(a.user_vectors(asked), b.user_vectors(asked))
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


def test_a_slow_machine_trains_the_same_model_unless_the_time_is_limited(tmp_path: Path, monkeypatch) -> None:
    from longtail.retrieval import two_tower_training

    log = cyclic_log(users=20)
    brief = replace(SHORT, targets=3 * len(log))
    assert train(tmp_path / "fast", brief, log)["epochs"] == 3, "a log that is long for its targets gets fewer epochs"
    ticks = iter(range(0, 10**9, 1000))  # every look at the clock is a quarter of an hour later
    monkeypatch.setattr(two_tower_training.time, "perf_counter", lambda: next(ticks))
    assert train(tmp_path / "slow", brief, log)["epochs"] == 3
    same = [np.load(tmp_path / name / "item_vectors.npy").tobytes() for name in ("fast", "slow")]
    assert same[0] == same[1]
    assert train(tmp_path / "limited", replace(brief, max_seconds=60), log)["epochs"] == 1


def test_serving_needs_no_torch(folder: Path) -> None:
    code = ("import sys; sys.modules['torch'] = None; from pathlib import Path; "
            "from longtail.retrieval.two_tower import TwoTower; TwoTower.load(Path(sys.argv[1]))")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    log = cyclic_log()
    with pytest.raises(InvalidInput, match="two-tower needs"):
        train(tmp_path, QUICK, log.select(np.zeros(len(log), bool)))


def test_a_basket_is_predicted_from_what_came_before_it_only() -> None:
    from longtail.retrieval.two_tower_windows import Sequences

    log = cyclic_log(users=20, length=6)
    # Three baskets of two (events of one instant), and every item belongs to one person.
    day = np.tile(np.repeat(np.arange(3), 2), 20)
    log = replace(log, time=day * DAY_US, item=np.arange(120, dtype=np.int32), n_items=120)
    seen = set()
    for batch in Sequences(log, np.zeros(20, np.int32), QUICK, 0).epoch(0):
        window, depth = np.divmod(batch.state, batch.item.shape[1] + 1)
        before = np.where(depth > 0, day[batch.item[window, np.maximum(depth - 1, 0)]], -1)
        np.testing.assert_array_equal(day[batch.target], before + 1)
        np.testing.assert_array_equal(batch.item[window, 0] // 6, batch.target // 6)
        seen |= set(batch.target.tolist())
    assert len(seen) > 60


def test_the_last_basket_of_held_out_people_is_never_a_target() -> None:
    from longtail.retrieval.two_tower_windows import Sequences

    log = replace(cyclic_log(users=100, length=6), item=np.arange(600, dtype=np.int32), n_items=600)
    sequences = Sequences(log, np.zeros(100, np.int32), QUICK, 0)
    held = np.concatenate([b.target for b in sequences.validation])
    trained = np.concatenate([b.target for e in range(3) for b in sequences.epoch(e)])
    assert len(held) == 10 and not np.isin(held, trained).any()
    assert len(np.unique(trained)) == 590


def test_a_target_weighs_as_much_more_as_its_place_was_less_looked_at() -> None:
    from longtail.retrieval.two_tower_windows import Sequences

    log = replace(cyclic_log(users=20, length=6), item=np.arange(120, dtype=np.int32), n_items=120)
    importance = np.linspace(0.5, 3, 120).astype(np.float32)

    def weights(given: np.ndarray | None) -> dict[int, float]:
        epoch = Sequences(log, np.zeros(20, np.int32), QUICK, 0, importance=given).epoch(0)
        return {int(i): float(w) for b in epoch for i, w in zip(b.target, b.weight, strict=True)}

    plain, weighed = weights(None), weights(importance)
    assert weighed.keys() == plain.keys()
    for item, weight in weighed.items():
        assert weight == pytest.approx(plain[item] * importance[item], rel=1e-5)


_TRAIN = """
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tests.retrieval.test_two_tower import SAMPLED, train
train(Path(sys.argv[1]), replace(SAMPLED, epochs=int(sys.argv[2])))
"""
SAMPLED = replace(QUICK, id_dropout=0.0, epochs=3, full_softmax_items=10, in_batch_negatives=8, uniform_negatives=8,
                  mixed_precision=False, batch_targets=100)  # fmt: skip


def _torchrun(folder: Path, epochs: int, processes: int = 2) -> None:
    script = folder.with_suffix(".py")
    script.write_text(_TRAIN)
    words = ["--standalone", f"--nproc-per-node={processes}", str(script), str(folder), str(epochs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, text=True, timeout=300,
        env=environment,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]


@pytest.mark.slow
def test_several_processes_train_the_model_of_one(tmp_path: Path) -> None:
    train(tmp_path / "one", SAMPLED)
    _torchrun(tmp_path / "two", SAMPLED.epochs)
    one, two = (np.load(tmp_path / name / "item_vectors.npy") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert TwoTower.load(tmp_path / "two").config["figures"]["epochs"] == SAMPLED.epochs
