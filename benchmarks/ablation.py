"""What each source and each group of features adds: the ranker trained again without it, judged on the newest windows.

    python -m benchmarks.ablation new-week path/to/online-retail --keep FOLDER [--windows 8] [--judged 3]
        [--requests 2000] [--epochs 3] [--rounds 60] [--negatives 0.05] [--repeats 2]

A source that is left out takes its two columns with it, and the candidates that only it proposed. All variants are
judged on the same requests; the interval is that of the paired difference to the whole system. It knows nothing of the
luck of training, which is why every ranker is trained `--repeats` times and their figures averaged: the row "nothing,
other seeds" shows what luck is left. What was proposed and every finished row stay in FOLDER: a run that was stopped
goes on from there. Fewer `--rounds` learn as far, by a learning rate that is higher in proportion.
"""

import argparse
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from longtail.benchmark import PROTOCOLS, Protocol, load_training_part, train_tower
from longtail.errors import InvalidInput
from longtail.evaluation.bootstrap import paired_difference
from longtail.features.request import feature_list
from longtail.ranking.ranker import TrainingRows, train_ranker
from longtail.training import Proposals, TrainingConfig, TrainingSet, prepare, propose

T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """All candidates of one window's requests, and how many items each request wanted, proposed or not.

    `features` float32 [N, F], `gain` float32 [N], `request` int64 [N] ascending, `ranks` float32 [N, S]; `wanted`
    int64 [B].
    """

    features: np.ndarray
    gain: np.ndarray
    request: np.ndarray
    ranks: np.ndarray
    wanted: np.ndarray


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path, required=True, help="folder for what is finished")
    parser.add_argument("--windows", type=int, default=5, help="windows, those that are judged among them")
    parser.add_argument("--judged", type=int, default=1, help="newest windows, which are judged and not learned from")
    parser.add_argument("--requests", type=int, help="requests of a window, at most; default: the protocol's")
    parser.add_argument("--rounds", type=int, help="trees of every ranker; default: the protocol's")
    parser.add_argument("--negatives", type=float, help="share of unwanted candidates; default: the protocol's")
    parser.add_argument("--repeats", type=int, default=3, help="trainings of every ranker")
    parser.add_argument("--epochs", type=int, help="of the two-tower; default: the protocol's, 0: without it")
    given = parser.parse_args()
    protocol = PROTOCOLS[given.protocol]
    config = replace(protocol.config, windows=given.windows)
    if given.requests:
        config = replace(config, requests=given.requests)
    if given.negatives:
        config = replace(config, negatives=given.negatives)
    if given.epochs:
        config = replace(config, two_tower=replace(config.two_tower, epochs=given.epochs))
    if given.rounds:
        eta = config.ranker.eta * config.ranker.rounds / given.rounds
        config = replace(config, ranker=replace(config.ranker, rounds=given.rounds, eta=eta))
    protocol = replace(protocol, config=config)
    whole = [given.protocol, str(given.folder), given.judged, given.repeats, given.epochs, asdict(config)]
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    keep = given.keep / digest  # other settings never read these rows
    keep.mkdir(parents=True, exist_ok=True)
    learned, judged = proposed(protocol, given.folder, given.epochs != 0, given.judged, keep)
    table(learned, judged, config, given.repeats, keep)


def kept(path: Path, make: Callable[[], T]) -> T:
    """What an earlier run left in `path`, else what `make` gives, written there."""
    if path.is_file():
        return pickle.loads(path.read_bytes())
    found = make()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(pickle.dumps(found, protocol=5))
    os.replace(beside, path)
    return found


def proposed(
    protocol: Protocol, folder: Path, two_tower: bool, judged: int, keep: Path
) -> tuple[Proposals, list[Judged]]:
    """What the older windows teach, and all candidates of the newest `judged` ones."""
    places = [keep / "learned.pickle", *(keep / f"judged-{n}.pickle" for n in range(judged))]
    if all(place.is_file() for place in places):
        learned, *found = (pickle.loads(place.read_bytes()) for place in places)
        return learned, found
    shop, until, _, _ = load_training_part(protocol, folder, keep)
    data = prepare(shop, until, protocol.config)
    windows = data.windows()
    if len(windows) <= judged:
        raise InvalidInput(f"only {len(windows)} windows fit into the log: judge fewer, or ask for more --windows")
    shared = [train_tower(data, keep / "tower")] if two_tower else []  # it goes on from its checkpoint
    learned = kept(places[0], lambda: propose(data, shared, windows[judged:], say))
    return learned, [
        kept(place, partial(judged_window, data, shared, window))
        for place, window in zip(places[1:], windows, strict=False)
    ]


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def judged_window(data: TrainingSet, shared: list, window: tuple[int, int]) -> Judged:
    """Every candidate of the window's requests to which something wanted was proposed."""
    stage = data.stage(window[0], shared)
    requests, wanted = data.requests(*window)
    items = stage.item_table()
    blocks = []
    for first, part, candidates in stage.chunks(requests, None):
        gain = wanted.label(candidates.rows + first, candidates.items)
        hit = np.isin(candidates.rows, candidates.rows[gain > 0])
        found = candidates.take(hit)
        blocks.append((stage.features(part, found, items), gain[hit], found.rows + first, found.ranks))
    features, gain, rows, ranks = (np.concatenate(column) for column in zip(*blocks, strict=True))
    say(f"judged: {len(requests)} requests, {len(gain)} candidates")
    return Judged(features, gain, rows, ranks, np.diff(wanted.indptr))


def table(learned: Proposals, judged: list[Judged], config: TrainingConfig, repeats: int, keep: Path) -> None:
    """Train and judge every variant that no earlier run has, and print a row for each."""
    features = feature_list(learned.sources)
    names = [f.name for f in features]

    def ndcg(row: str, columns: np.ndarray, source: int | None = None, seed: int = 0) -> np.ndarray:
        """Of every request, averaged over trainings from `seed` on."""
        others = np.arange(len(learned.sources)) != (-1 if source is None else source)

        def train_and_judge() -> np.ndarray:
            rows = masked(learned, columns, others, config.depth)
            named = [f for f, c in zip(features, columns, strict=True) if c]
            found = []
            for luck in range(seed, seed + repeats):
                booster = train_ranker(rows, named, replace(config.ranker, seed=luck))
                parts = []
                for part in judged:
                    among = (part.ranks[:, others] < config.depth).any(axis=1)
                    score = np.full(len(among), -np.inf, np.float32)
                    score[among] = booster.inplace_predict(part.features[among][:, columns])
                    parts.append(ndcg_at_10(score, part))
                found.append(np.concatenate(parts))
            return np.mean(found, axis=0)

        return kept(keep / f"{row.replace(' ', '_').replace(':', '')}.pickle", train_and_judge)

    everything = np.ones(len(names), bool)
    whole = ndcg("whole", everything)
    print(f"whole system: ndcg@10 {whole.mean():.4f} on {len(whole)} requests; "
          f"it learns from {len(learned.rows.sizes)} requests, {len(learned.rows.gain)} candidates\n")  # fmt: skip
    print("| without | ndcg@10 | it adds | 95% |\n| --- | --- | --- | --- |")
    row = "nothing, other seeds"
    report(row, ndcg(row, everything, seed=repeats), whole)
    for group in sorted({f.group for f in features}):
        row = f"features: {group}"
        report(row, ndcg(row, np.array([f.group != group for f in features])), whole)
    for s, source in enumerate(learned.sources):
        row = f"source: {source}"
        report(row, ndcg(row, np.array([n not in (f"source_{source}", f"rank_{source}") for n in names]), s), whole)


def report(name: str, found: np.ndarray, whole: np.ndarray) -> None:
    """One row of the table."""
    gain = paired_difference(whole, found)
    print(f"| {name} | {found.mean():.4f} | {gain.mean:+.4f} | {gain.low:+.4f} .. {gain.high:+.4f} |", flush=True)


def masked(learned: Proposals, columns: np.ndarray, others: np.ndarray, depth: int) -> TrainingRows:
    """The training rows that the remaining sources would have given."""
    rows = learned.rows
    keep = (learned.ranks[:, others] < depth).any(axis=1)
    group = np.repeat(np.arange(len(rows.sizes)), rows.sizes)
    wanted = np.bincount(group[keep], rows.gain[keep], len(rows.sizes)) > 0
    keep &= wanted[group]
    sizes = np.bincount(group[keep], minlength=len(rows.sizes))
    return TrainingRows(rows.features[keep][:, columns], rows.gain[keep], sizes[sizes > 0], rows.weight[sizes > 0])


def ndcg_at_10(score: np.ndarray, part: Judged) -> np.ndarray:
    """Binary NDCG@10 of every request, 0 where nothing wanted was proposed; float64 [B]."""
    order = np.lexsort((-score, part.request))
    place = np.arange(len(order)) - np.searchsorted(part.request, part.request)
    hit = (place < 10) & (part.gain[order] > 0) & np.isfinite(score[order])
    dcg = np.bincount(part.request, hit / np.log2(place + 2), len(part.wanted))
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, 12)))])[np.minimum(part.wanted, 10)]
    return dcg / ideal


if __name__ == "__main__":
    main()
