"""A trained two-tower to go on from: its weights, and how they fit a catalogue and a people that changed since."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from longtail.errors import InvalidInput
from longtail.events import Catalogue
from longtail.retrieval.two_tower_content import ContentVocabulary

FILE = "weights.pt"


@dataclass(frozen=True)
class WarmStart:
    """Weights by name, and what their rows stand for.

    `seen` bool [I]: items whose id vector was trained; `until` microseconds: the end of what it learned from.
    """

    weights: Mapping[str, torch.Tensor]
    item_ids: Sequence[str]
    seen: np.ndarray
    segments: Sequence[str]
    vocabulary: ContentVocabulary
    until: int

    def save(self, folder: Path) -> None:
        """Write `weights.pt`, whole or not at all."""
        state = {
            "weights": {name: value.detach().cpu().clone() for name, value in self.weights.items()},
            "item_ids": [str(i) for i in self.item_ids],
            "seen": torch.as_tensor(self.seen),
            "segments": [str(s) for s in self.segments],
            "tokens": torch.as_tensor(self.vocabulary.hashes),
            "price_edges": [float(edge) for edge in self.vocabulary.price_edges],
            "until": int(self.until),
        }
        part = Path(folder) / f"{FILE}.part"
        torch.save(state, part)
        os.replace(part, Path(folder) / FILE)

    @staticmethod
    def load(folder: Path) -> WarmStart:
        """What `save` wrote.

        Raises:
            InvalidInput: there is none.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise InvalidInput(f"{folder} has no {FILE}: there is nothing to go on from, train in full")
        state = torch.load(path, map_location="cpu", weights_only=True)
        words = ContentVocabulary(state["tokens"].numpy(), np.array(state["price_edges"], np.float64))
        return WarmStart(
            state["weights"], state["item_ids"], state["seen"].numpy(), state["segments"], words, state["until"]
        )

    def seen_of(self, catalogue: Catalogue) -> np.ndarray:
        """bool [I] of another catalogue: the items whose id vector is known here."""
        mine, theirs = self._rows(catalogue)
        out = np.zeros(len(catalogue), bool)
        out[theirs] = self.seen[mine]
        return out

    def put_into(self, modules: torch.nn.Module, catalogue: Catalogue, segments: Sequence[str]) -> None:
        """Fill the modules of a new tower: items and segments by name, everything else as it is.

        An item that is new, or was never a target, starts from its content alone; a segment that is new starts as an
        unknown one. The modules must have been built with `vocabulary`.

        Raises:
            InvalidInput: the new tower has other sizes.
        """
        new = {name: value.clone() for name, value in modules.state_dict().items()}
        for name, value in new.items():
            old = self.weights.get(name)
            by_row = name in ("item_tower.id.weight", "user_tower.segment.weight")
            if old is None or (old.shape[1:] != value.shape[1:] if by_row else old.shape != value.shape):
                raise InvalidInput(
                    "the champion's two-tower has other sizes than the configuration asks for: train in full"
                )
            if not by_row:
                new[name] = old
        mine, theirs = self._rows(catalogue)
        known = self.seen[mine]
        identity = new["item_tower.id.weight"].zero_()
        identity[theirs[known]] = self.weights["item_tower.id.weight"][mine[known]].to(identity.device)
        old_place = {name: place for place, name in enumerate(self.segments, 1)}  # 0: unknown
        places = [0, *(old_place.get(str(name), 0) for name in segments)]
        table = new["user_tower.segment.weight"]
        if len(places) == len(table):
            new["user_tower.segment.weight"] = self.weights["user_tower.segment.weight"][places]
        modules.load_state_dict(new)

    def _rows(self, catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
        """(rows here, rows there) int64 [n] of the items that both have."""
        there = catalogue.find(self.item_ids)
        mine = np.flatnonzero(there >= 0)
        return mine, there[mine]
