"""The recommender's real server over a bundle, retriever and ranker in its own process: what the fuzz tests talk to.

`python -m tests.serving.fuzz_server BUNDLE STATE HTTP_PORT GRPC_PORT`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from serving.lean import keep_out


def engine_of(folder: Path, state: Path) -> Any:
    """The engine of a bundle without servers behind it."""
    import numpy as np
    import xgboost

    from longtail.engine.config import EngineConfig
    from longtail.engine.engine import Engine
    from longtail.engine.impressions import ImpressionLog
    from longtail.engine.online import StoredPeople, lay_out
    from longtail.engine.parts import Bundle
    from longtail.retrieval import Retriever

    bundle = Bundle.open(folder)
    retriever = Retriever.load(folder / "retrieval")
    booster = xgboost.Booster(model_file=folder / "ranker" / bundle.ranker / "1" / "xgboost.ubj")

    async def retrieve(requests, ask):
        return retriever.candidates(requests, ask.n, ask.also, ask.weights)

    async def score(features):
        return booster.inplace_predict(features)

    return Engine(
        bundle=bundle, people=StoredPeople(bundle, lay_out(bundle, state)), retrieve=retrieve, score=score,
        clock=lambda: bundle.as_of, rng=np.random.default_rng(0), config=EngineConfig(candidates=50),
        impressions=ImpressionLog(state / "impressions"),
    )  # fmt: skip


def main() -> None:
    """Serve until told to stop."""
    folder, state, http, grpc = sys.argv[1:]
    sys.argv = sys.argv[:1]  # KServe reads the command line, too
    from serving.edge.guard import Guard
    from serving.recommender.model import RecommenderModel
    from serving.server import Server

    Server(int(http), int(grpc)).serve(RecommenderModel(engine_of(Path(folder), Path(state))), Guard.load(None))


if __name__ == "__main__":
    keep_out()
    main()
