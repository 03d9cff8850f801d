"""What may serve: the off-policy check, the gate and the registry."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longtail.champion import WARM, champion_lists
from longtail.datasets.remote import fetching
from longtail.errors import InvalidInput
from longtail.evaluation.gate import Finding, GateConfig, fallen, slices, within
from longtail.events import Shop
from longtail.steps.bundling import write_bundle
from longtail.steps.evaluation import sliced
from longtail.steps.folders import JUDGED, SLICES, VERDICT, Figures, fingerprint, fresh, load, say
from longtail.training import TrainingConfig

if TYPE_CHECKING:
    from longtail.registry import Registry

RANKED = 500  # candidates that are scored to time the ranker


@fetching("surfaces", "impressions")
def off_policy(
    shop: Path, features: Path, candidates: Path, ranker: Path, evaluation: Path, out: Path, registry: str,
    config: TrainingConfig, surfaces: str = "", impressions: str = "", margin: float = 0.05,
) -> Figures:  # fmt: skip
    """Whether this run's bundle may get traffic, by the champion's impression log; writes `verdict.json`.

    Both re-rank the logged candidates by the champion's surfaces, so that they explore alike. A bundle that the log
    cannot judge is held back; without a log or a champion everything passes.
    """
    from longtail.registry import Registry

    champion = Registry(registry).champion()
    if not impressions or champion is None:
        lacks = (
            "no impression log was given" if not impressions else "there is no champion that could have written a log"
        )
        verdict: Figures = {"passed": True, "reason": f"{lacks}: nothing was estimated"}
    else:
        from longtail.offpolicy.gate import judge_bundles

        loaded, figures = Shop.load(shop), json.loads((evaluation / "figures.json").read_text())
        about = json.loads((shop / "import.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            bundle = Path(scratch) / "bundle"
            write_bundle(loaded, about, features, candidates, ranker, evaluation, bundle, figures, config, surfaces)
            verdict = judge_bundles(
                Path(impressions),
                shop,
                Registry(registry).resolve(champion.number),
                bundle,
                margin,
                config.seed,
                Path(surfaces) if surfaces else None,
                config.objective,
            )
    with fresh(out) as folder:
        (folder / VERDICT).write_text(json.dumps(verdict, indent=1))
    say(verdict["reason"])
    return {"passed": verdict["passed"], "reason": verdict["reason"]}


@fetching("surfaces")
def register(
    shop: Path, features: Path, index: Path, candidates: Path, ranker: Path, evaluation: Path, out: Path,
    registry: str, config: TrainingConfig, surfaces: str = "", metric: str = "ndcg@10", margin: float = 0.0,
    verdict: Path | None = None, gate: GateConfig | None = None, run: str = "",
) -> Figures:  # fmt: skip
    """Put the bundle together and register it; the gate decides which role it takes, and why is kept with the version.

    It becomes champion if it beats the champion by `margin` on the same requests (or, where `gate` says so, is not
    worse). What was judged by a window that the ranker had learned from beats nobody. It takes no role at all where
    the `verdict` of `off_policy` holds it back, a part of the people or items surely loses, the ranker is too slow or
    the bundle too large.
    """
    from longtail.evaluation.system import Report
    from longtail.registry import Registry
    from longtail.surfaces import Surfaces

    if surfaces:
        Surfaces.load(Path(surfaces))
    loaded = Shop.load(shop)
    about = json.loads((shop / "import.json").read_text()) | {"fingerprint": fingerprint(shop)}
    figures = json.loads((evaluation / "figures.json").read_text())
    shutil.rmtree(out, ignore_errors=True)
    manifest, card = write_bundle(
        loaded, about, features, candidates, ranker, evaluation, out, figures, config, surfaces
    )
    kept = (index / "weights.pt", candidates / "about.json", evaluation / SLICES)
    warm = [path for path in kept if path.is_file()]
    judged: Figures = {"passed": True} if verdict is None else json.loads((verdict / VERDICT).read_text())
    gate = gate or GateConfig()
    findings = [Finding("off_policy", judged["passed"], judged["reason"])] if verdict is not None else []
    findings += _limits(ranker, out, gate)
    compared, against = _against_champion(shop, evaluation, Registry(registry), config, gate, figures, metric)
    version = Registry(registry).register(
        out, figures, {"config": json.dumps(asdict(config))}, card, manifest.data_fingerprint, metric=metric,
        margin=margin, cases=np.load(evaluation / "cases.npy"),
        unseen=Report.from_json((evaluation / "report.json").read_text()).unseen,
        findings=[*findings, *compared], against=against, gate=gate, kept={WARM: warm} if warm else None,
        run=run,
    )  # fmt: skip
    say(f"version {version.number}, {version.decision}")
    return {
        "version": version.number, "aliases": list(version.aliases), "held": version.held, "bundle": manifest.version,
    }  # fmt: skip


def _limits(ranker: Path, bundle: Path, gate: GateConfig) -> list[Finding]:
    """The ranker's time and the bundle's size against their limits."""
    import time

    import xgboost as xgb

    from longtail.ranking.forest import Forest

    booster = xgb.Booster(model_file=ranker / "booster.ubj")
    booster.set_param({"nthread": 1})
    forest = Forest.of(booster)
    score: Any = booster.inplace_predict if forest is None else forest.scores
    rows = np.random.default_rng(0).standard_normal((RANKED, booster.num_features())).astype(np.float32)
    score(rows)  # what is compiled at the first call is no part of a request
    spent = []
    for _ in range(20):
        began = time.thread_time()
        score(rows)
        spent.append(time.thread_time() - began)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return [
        within("latency", 1000 * float(np.median(spent)), gate.latency_ms, "ms", f"{RANKED} candidates are scored in"),
        within("size", size / 1e6, gate.bundle_mb, "MB", "the bundle has"),
    ]


def _against_champion(
    shop: Path, evaluation: Path, registry: Registry, config: TrainingConfig, gate: GateConfig, figures: Figures,
    metric: str,
) -> tuple[list[Finding], np.ndarray | None]:  # fmt: skip
    """What the gate finds beside the champion, and the champion's `metric` of each judged request, None if unknown."""
    from longtail.evaluation import baselines
    from longtail.evaluation.metrics import Truth

    champion = registry.champion()
    if champion is None or not (evaluation / SLICES).is_file():
        return [], None
    with np.load(evaluation / SLICES) as stored:
        ours = dict(zip(stored["names"].tolist(), stored["values"], strict=True))
    findings = []
    if champion.data_fingerprint != fingerprint(shop):
        if champion.metric == metric:
            findings.append(fallen(figures[metric], champion.value, gate, metric))
    elif (past := registry.kept(champion.number, WARM)) is not None and (past / SLICES).is_file():
        # It was judged on this very data: what it reached then need not be worked out again.
        with np.load(past / SLICES) as stored:
            theirs = dict(zip(stored["names"].tolist(), stored["values"], strict=True))
        if metric == "ndcg@10" and theirs["overall"].shape == ours["overall"].shape:
            return [slices(ours, theirs, gate, metric)], theirs["overall"]
    if metric != "ndcg@10":
        return findings, None
    data = load(shop, config)
    start, stop = data.windows()[0]
    requests, wanted = data.requests(start, stop, limit=JUDGED)
    try:
        if len(requests) != len(ours["overall"]):
            raise InvalidInput("the evaluation is of other requests than this shop's newest window")
        lists = champion_lists(data, (start, stop), requests, registry, champion.number, 10)
    except InvalidInput as error:
        why = f"version {champion.number} could not be judged on the same requests: {error}"
        return [*findings, Finding("slices", True, why)], None
    popularity = baselines.popularity(data.positives.before(start))
    theirs = sliced(data, requests, Truth(wanted.indptr, wanted.item, wanted.gain), popularity, shop, lists)
    return [*findings, slices(ours, theirs, gate, metric)], theirs["overall"]
