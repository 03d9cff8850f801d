"""What each source and each group of features adds: the ranker trained again without it, judged on the newest window.

    python -m benchmarks.ablation new-week path/to/online-retail [--windows 5] [--requests 2000] [--repeats 3]

A source that is left out takes its two columns with it, and the candidates that only it proposed. All variants are
judged on the same requests; the interval is that of the paired difference to the whole system. It knows nothing of the
luck of training, which is why every ranker is trained `--repeats` times and their figures averaged: the row "nothing,
other seeds" shows what luck is left.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from longtail.benchmark import PROTOCOLS, Protocol, load_training_part, train_tower
from longtail.evaluation.bootstrap import paired_difference
from longtail.features.request import feature_list
from longtail.ranking.groups import Wanted
from longtail.ranking.ranker import TrainingRows, train_ranker
from longtail.ranking.two_stage import training_rows
from longtail.training import Proposals, TrainingSet, prepare, propose


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--requests", type=int, help="requests of a window, at most; default: the protocol's")
    parser.add_argument("--rounds", type=int, help="trees of every ranker; default: the protocol's")
    parser.add_argument("--repeats", type=int, default=3, help="trainings of every ranker")
    parser.add_argument("--no-two-tower", action="store_true")
    given = parser.parse_args()
    protocol = PROTOCOLS[given.protocol]
    config = replace(protocol.config, windows=given.windows)
    if given.requests:
        config = replace(config, requests=given.requests)
    if given.rounds:
        config = replace(config, ranker=replace(config.ranker, rounds=given.rounds))
    protocol = replace(protocol, config=config)
    with tempfile.TemporaryDirectory() as scratch:
        run(protocol, given.folder, Path(scratch), not given.no_two_tower, given.repeats)


def run(protocol: Protocol, folder: Path, scratch: Path, two_tower: bool, repeats: int) -> None:
    """Propose once, then train and judge every variant."""
    shop, until, _, _ = load_training_part(protocol, folder, scratch)
    data = prepare(shop, until, protocol.config)
    shared = [train_tower(data, scratch / "tower")] if two_tower else []
    newest, *older = data.windows()
    learned = propose(data, shared, older, lambda line: print(line, file=sys.stderr))
    test, wanted, groups = judged(data, shared, newest)
    features = feature_list(learned.sources)
    names, depth = [f.name for f in features], protocol.config.depth

    def ndcg(columns: np.ndarray, source: int | None, seed: int = 0) -> np.ndarray:
        """Of every request, averaged over trainings from `seed` on."""
        others = np.ones(len(learned.sources), bool)
        if source is not None:
            others[source] = False
        rows = masked(learned, columns, others, depth)
        named = [f for f, c in zip(features, columns, strict=True) if c]
        keep = (test.ranks[:, others] < depth).any(axis=1)
        asked = test.rows.features[keep][:, columns]
        score = np.full(len(keep), -np.inf, np.float32)
        found = []
        for luck in range(seed, seed + repeats):
            booster = train_ranker(rows, named, replace(protocol.config.ranker, seed=luck))
            score[keep] = booster.inplace_predict(asked)
            found.append(ndcg_at_10(score, test.rows, wanted, groups))
        return np.mean(found, axis=0)

    everything = np.ones(len(names), bool)
    whole = ndcg(everything, None)
    print(
        f"\nwhole system: ndcg@10 {whole.mean():.4f} on {len(whole)} requests\n\n| without | ndcg@10 | it adds | 95% |"
    )
    print("| --- | --- | --- | --- |")
    report("nothing, other seeds", ndcg(everything, None, repeats), whole)
    for group in sorted({f.group for f in features}):
        columns = np.array([f.group != group for f in features])
        report(f"features: {group}", ndcg(columns, None), whole)
    for s, source in enumerate(learned.sources):
        columns = np.array([n not in (f"source_{source}", f"rank_{source}") for n in names])
        report(f"source: {source}", ndcg(columns, s), whole)


def report(name: str, found: np.ndarray, whole: np.ndarray) -> None:
    """One row of the table."""
    gain = paired_difference(whole, found)
    print(f"| {name} | {found.mean():.4f} | {gain.mean:+.4f} | {gain.low:+.4f} .. {gain.high:+.4f} |", flush=True)


def judged(data: TrainingSet, shared: list, window: tuple[int, int]) -> tuple[Proposals, Wanted, np.ndarray]:
    """All candidates of the requests of a window, and for each group the request that it answers."""
    stage = data.stage(window[0], shared)
    requests, wanted = data.requests(*window)
    wanted = replace(wanted, shown=None)  # what was on show is for learning: judged is what retrieval proposes
    rows, scores, ranks, recall = training_rows(stage, requests, wanted, 1.0, None, 0)
    hit = np.zeros(len(requests), bool)
    for first, _, candidates in stage.chunks(requests, None):
        found = wanted.label(candidates.rows + first, candidates.items) > 0
        hit[np.unique(candidates.rows[found]) + first] = True
    return Proposals(rows, scores, ranks, stage.retriever.names, recall), wanted, np.flatnonzero(hit)


def masked(learned: Proposals, columns: np.ndarray, others: np.ndarray, depth: int) -> TrainingRows:
    """The training rows that the remaining sources would have given."""
    rows = learned.rows
    keep = (learned.ranks[:, others] < depth).any(axis=1)
    group = np.repeat(np.arange(len(rows.sizes)), rows.sizes)
    wanted = np.bincount(group[keep], rows.gain[keep], len(rows.sizes)) > 0
    keep &= wanted[group]
    sizes = np.bincount(group[keep], minlength=len(rows.sizes))
    return TrainingRows(rows.features[keep][:, columns], rows.gain[keep], sizes[sizes > 0], rows.weight[sizes > 0])


def ndcg_at_10(score: np.ndarray, rows: TrainingRows, wanted: Wanted, groups: np.ndarray) -> np.ndarray:
    """Binary NDCG@10 of every request, 0 where nothing wanted was proposed; float64 [B]."""
    out = np.zeros(len(wanted.indptr) - 1)
    discount = 1 / np.log2(np.arange(2, 12))
    bounds = np.concatenate([[0], np.cumsum(rows.sizes)])
    for g, request in enumerate(groups):
        part = slice(bounds[g], bounds[g + 1])
        top = np.argsort(-score[part], kind="stable")[:10]
        hits = (rows.gain[part][top] > 0) & np.isfinite(score[part][top])
        ideal = discount[: min(10, wanted.indptr[request + 1] - wanted.indptr[request])].sum()
        out[request] = (hits * discount[: len(hits)]).sum() / ideal
    return out


if __name__ == "__main__":
    main()
