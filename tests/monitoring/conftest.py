from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.served_shop import Fault, Served, train
from longtail.datasets.simulator import SimulatorConfig
from longtail.monitoring.run import Watched
from longtail.ranking.ranker import RankerConfig
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.training import TrainingConfig

TRAINED, QUIET = 28, 2


@dataclass
class Lived:
    """A shop that a bundle served for `days` days (ISO), what its servers wrote, and how it goes on."""

    folder: Path
    served: Served
    watched: Watched
    days: list[str]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def shop(self) -> Path:
        return self.folder / "shop"

    def broken(self, state: Path, fault: Fault) -> str:
        """One more day with a fault, written into `state`; returns it."""
        return self.served.fork(state, None, fault).live()


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    folder = tmp_path_factory.mktemp("lived")
    days = TRAINED + QUIET + 2
    config = SimulatorConfig(users=250, items=120, days=days, events=1200 * days, seed=3, guest_share=0.0)
    tower = TwoTowerConfig(dim=8, layers=1, heads=1, epochs=1, last=10)
    ranker = RankerConfig(rounds=15, max_depth=4, min_child_weight=1, threads=1)
    training = TrainingConfig(windows=2, requests=250, depth=30, two_tower=tower, ranker=ranker)
    train(folder, config, TRAINED, training)
    served = Served.open(folder, folder / "state", config, TRAINED)
    return Lived(folder, served, Watched.open(folder / "bundle"), [served.live() for _ in range(QUIET)])
