"""Train the two-tower: causal sequences, sampled softmax, early stopping, resumable; what it writes needs no torch."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from longtail.errors import InvalidInput
from longtail.events import Catalogue, Log
from longtail.retrieval.index import VectorIndex
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.retrieval.two_tower_content import ContentVocabulary
from longtail.retrieval.two_tower_model import ItemTower, SampledSoftmax, UserTower, export_user_tower, seed_everything
from longtail.retrieval.two_tower_processes import Processes
from longtail.retrieval.two_tower_warm import WarmStart
from longtail.retrieval.two_tower_windows import Batch, Epoch, Sequences

_CHECKPOINT = "checkpoint.pt"


@dataclass
class _Run:
    """The state of a training run, all of it in the checkpoint."""

    epoch: int = 0
    planned: int = 0
    best: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0


class Trainer:
    """One training run; `fit` goes on from the checkpoint of `folder` if it is of the same data and configuration.

    Started by torchrun it is the share of one process, see `two_tower_processes`.
    """

    def __init__(
        self, log: Log, catalogue: Catalogue, segment: np.ndarray, config: TwoTowerConfig, folder: Path, seed: int,
        segments: Sequence[str] = (), warm: WarmStart | None = None, importance: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.config, self.folder, self.seed = config, folder, seed
        self.catalogue, self.segment_names = catalogue, segments
        kind = _device(config.device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not give the same twice
        self.processes = Processes.join(kind)
        self.device = torch.device(self.processes.device(kind))
        as_of = int(log.time.max()) + 1
        self.as_of = as_of
        self.segments = max(int(segment.max(initial=-1)) + 1, len(segments))
        self.sequences = Sequences(log, segment, config, seed, warm.until if warm else None, importance)
        # The words that were learned: others wait for the next training in full.
        self.vocabulary = warm.vocabulary if warm else ContentVocabulary.fit(catalogue, as_of, config.vocabulary)
        self.bag = self.vocabulary.bag(catalogue, as_of)
        torch.manual_seed(seed)
        self.items = ItemTower(log.n_items, len(self.vocabulary), self.bag, config).to(self.device)
        self.users = UserTower(config, self.segments).to(self.device)
        self.modules = torch.nn.ModuleDict({"item_tower": self.items, "user_tower": self.users})
        self.optimiser = torch.optim.AdamW(
            self.modules.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self.counts = np.bincount(log.item, minlength=log.n_items).astype(np.float64)
        self.seen = self.counts > 0
        self.half = config.mixed_precision and (
            self.device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())
        )
        self.fingerprint = _fingerprint(log, config, seed, warm, importance)
        self.run = _Run(planned=self._planned(len(log)))
        self.best_weights: dict[str, torch.Tensor] = {}
        if warm is not None:
            warm.put_into(self.modules, catalogue, segments)
            self.seen = warm.seen_of(catalogue) | (self.seen if self.run.planned else False)
            # What it starts from is the first candidate: it must not become worse by going on.
            (self.run.best,), self.best_weights = self.processes.agree(self.validate()), self._weights()

    def fit(self) -> None:
        """Epochs until the plan is done, validation stops getting better, or the time is spent."""
        self._resume()
        self.processes.check(self.run.epoch)
        run, config = self.run, self.config
        while run.epoch < run.planned and run.epoch - run.best_epoch < config.patience:
            started = time.perf_counter()
            loss = self._epoch()
            score = self.validate() if self.processes.first else 0.0
            run.epoch += 1
            score, run.seconds = self.processes.agree(score, run.seconds + time.perf_counter() - started)
            if score > run.best or not self.sequences.validation:
                run.best, run.best_epoch = score, run.epoch
                self.best_weights = self._weights()
            if config.max_seconds > 0:
                # The learning rate falls over the planned epochs: plan as many as the pace so far lets into the time.
                fits = int(config.max_seconds / run.seconds * run.epoch)
                run.planned = max(run.epoch, min(self._planned(len(self.sequences.log)), fits))
            if self.processes.first:
                self._save()
                sys.stderr.write(f"two-tower epoch {run.epoch}/{run.planned}: loss {loss:.4f}, validation {score:.4f}, "
                                 f"{run.seconds:.0f} s\n")  # fmt: skip
        self.modules.load_state_dict(self.best_weights)

    def _planned(self, events: int) -> int:
        """Epochs by the size of the log alone, so that a slower machine trains the same model."""
        if not self.config.epochs:
            return 0
        return max(1, min(self.config.epochs, self.config.targets // max(1, min(events, self.config.epoch_targets))))

    def _epoch(self) -> float:
        # What dropout hides is each process's own affair.
        seed_everything(self.modules, self.seed * 100_003 + self.run.epoch + self.processes.rank * 1_000_000_007)
        self.modules.train()
        total, weight = 0.0, 0
        batches = self.sequences.epoch(self.run.epoch)
        for done, batch in enumerate(_progress(batches, f"two-tower epoch {self.run.epoch + 1}")):
            self._learning_rate((self.run.epoch + done / len(batches)) / max(self.run.planned, 1), done)
            loss = self._step(batch)
            torch.nn.utils.clip_grad_norm_(self.users.parameters(), 1.0)
            self.optimiser.step()
            total, weight = total + loss * len(batch.target), weight + len(batch.target)
        return total / max(weight, 1)

    def _learning_rate(self, progress: float, step: int) -> None:
        warming = min(1.0, (step + 1) / 50) if self.run.epoch == 0 else 1.0
        rate = self.config.learning_rate * warming * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _step(self, whole: Batch) -> float:
        """Leave the gradients of a batch in the modules, and return its loss."""
        negatives, log_q = self._negatives(whole)
        batch = self.processes.share(whole)
        self.optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        if len(batch.target):
            part = self._loss(batch, negatives, log_q, float(whole.weight.sum()))
            part.backward()
            loss = part.item()
        if self.processes.count == 1:
            return loss
        table, reached = self.items.id.weight, {}
        parameters = list(self.modules.parameters())
        if len(negatives) < len(table):
            rows = np.unique(np.concatenate([whole.item.ravel(), whole.target, negatives]))
            at = next(n for n, parameter in enumerate(parameters) if parameter is table)
            reached[at] = torch.as_tensor(rows, device=self.device)
        return self.processes.add_up(parameters, reached, loss)

    def _loss(self, batch: Batch, negatives: np.ndarray, log_q: np.ndarray, weight_of_all: float) -> torch.Tensor:
        """This batch's part of the mean over a batch whose targets weigh `weight_of_all`."""
        config = self.config
        needed = np.unique(np.concatenate([batch.item.ravel(), batch.target, negatives]))
        send = lambda a: torch.as_tensor(a, device=self.device)  # noqa: E731
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            vectors = self.items(needed)
            history = torch.nn.functional.embedding(send(np.searchsorted(needed, batch.item)), vectors)
            states = self.users.states(history, send(batch.kind), send(batch.gap)).flatten(0, 1)
            users = self.users.vector(
                states.index_select(0, send(batch.state)),
                *(send(a) for a in (batch.since, batch.segment, batch.hour, batch.weekday)),
            )
        targets = torch.nn.functional.embedding(send(np.searchsorted(needed, batch.target)), vectors)
        at = np.searchsorted(negatives, batch.target)
        hit = np.where(negatives[np.minimum(at, len(negatives) - 1)] == batch.target, at, -1)
        among = vectors if len(negatives) == len(needed) else torch.nn.functional.embedding(
            send(np.searchsorted(needed, negatives)), vectors)  # fmt: skip
        weight = send(batch.weight / np.float32(weight_of_all))
        return SampledSoftmax.apply(
            users, targets, among, send(log_q), send(hit), weight, 1 / config.temperature, self.half
        )

    def _negatives(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Distinct ascending items and log of the chance that each was drawn (0: all items are there)."""
        n, config = self.items.id.num_embeddings, self.config
        if n <= config.full_softmax_items:
            return np.arange(n), np.zeros(n, np.float32)
        rng = batch.rng
        own = rng.choice(batch.target, min(config.in_batch_negatives, len(batch.target)), replace=False)
        uniform = rng.integers(n, size=config.uniform_negatives)
        drawn = np.unique(np.concatenate([own, uniform]))
        share = np.clip(self.counts[drawn] / self.counts.sum(), 0, 1)
        missed = len(own) * np.log1p(-np.minimum(share, 1 - 1e-9)) + len(uniform) * np.log1p(-1 / n)
        return drawn, np.log(-np.expm1(missed)).astype(np.float32)

    @torch.no_grad()
    def vectors(self) -> np.ndarray:
        """Item vectors float32 [I, d]: content alone for an item that was never a target."""
        self.modules.eval()
        seen = torch.as_tensor(self.seen, dtype=torch.float32, device=self.device)
        return self.items(np.arange(len(self.counts)), seen).float().cpu().numpy()

    @torch.no_grad()
    def validation_vectors(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(user vectors [n, d], target int64 [n]) of the held-out requests."""
        users, targets = [np.empty((0, self.config.dim), np.float32)], [np.empty(0, np.int64)]
        self.modules.eval()
        table = torch.as_tensor(vectors, device=self.device)
        for batch in self.sequences.validation:
            send = lambda a: torch.as_tensor(a, device=self.device)  # noqa: E731
            states = self.users.states(table[send(batch.item)], send(batch.kind), send(batch.gap)).flatten(0, 1)
            context = (send(a) for a in (batch.since, batch.segment, batch.hour, batch.weekday))
            users.append(self.users.vector(states[send(batch.state)], *context).float().cpu().numpy())
            targets.append(batch.target)
        return np.concatenate(users), np.concatenate(targets)

    def validate(self) -> float:
        """Mean 1 / log2(1 + rank) of the held-out targets among all items: NDCG without a cut, so less noisy."""
        vectors = self.vectors()
        users, targets = self.validation_vectors(vectors)
        if not len(users):
            return 0.0
        gain, block = 0.0, max(1, 50_000_000 // len(vectors))
        for i in range(0, len(users), block):
            scores, own = users[i : i + block] @ vectors.T, targets[i : i + block]
            rank = 1 + (scores > scores[np.arange(len(own)), own][:, None]).sum(1)
            gain += float((1 / np.log2(1 + rank)).sum())
        return gain / len(users)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.modules.state_dict().items()}

    def _save(self) -> None:
        state = {
            "fingerprint": self.fingerprint, "run": asdict(self.run), "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(), "best": self.best_weights,
        }  # fmt: skip
        part = self.folder / f"{_CHECKPOINT}.part"
        torch.save(state, part)
        os.replace(part, self.folder / _CHECKPOINT)

    def _resume(self) -> None:
        path = self.folder / _CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            return
        self.modules.load_state_dict(state["modules"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best_weights, self.run = state["best"], _Run(**state["run"])

    def export(self) -> dict:
        """Write what serving reads; returns the figures."""
        vectors = self.vectors()
        queries, _ = self.validation_vectors(vectors)
        index = VectorIndex.build(vectors, queries, kind=self.config.index_kind, gpu=False, seed=self.seed)
        run = self.run
        figures = {
            "epochs": run.epoch, "best_epoch": run.best_epoch, "validation_ndcg": run.best, "seconds": run.seconds,
            "items": len(vectors), "content_tokens": len(self.vocabulary), "device": str(self.device),
            "index": asdict(index.figures),
        }  # fmt: skip
        index.save(self.folder)
        _write_array(self.folder / "item_vectors.npy", vectors)
        _write_array(self.folder / "content_table.npy", self.items.content.weight.detach().float().cpu().numpy())
        _write_array(self.folder / "content_tokens.npy", self.vocabulary.hashes)
        part = self.folder / "user_tower.onnx.part"
        export_user_tower(self.users, part)
        os.replace(part, self.folder / "user_tower.onnx")
        content = {"price_edges": self.vocabulary.price_edges.tolist()}
        weights = self.modules.state_dict()
        names = self.segment_names
        WarmStart(weights, self.catalogue.item_ids.tolist(), self.seen, names, self.vocabulary, self.as_of).save(
            self.folder
        )
        config = {"dim": self.config.dim, "last": self.config.last, "segments": self.segments, "content": content,
                  "as_of": self.as_of, "training": asdict(self.config), "figures": figures}  # fmt: skip
        part = self.folder / "config.json.part"
        part.write_text(json.dumps(config, indent=1))
        os.replace(part, self.folder / "config.json")
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return figures


def train_two_tower(
    log: Log, catalogue: Catalogue, segment: np.ndarray, config: TwoTowerConfig, folder: Path, seed: int,
    segments: Sequence[str] = (), warm: WarmStart | None = None, importance: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """Train on positives `log` and write user tower, item vectors, content vectors, index, weights and config.json.

    `segment` int32 [n_users] (-1 unknown), whose codes `segments` names. `importance` float32 [N]: how much each event
    counts as a target, such as the inverse of the chance that its place was looked at. A checkpoint in `folder` of the
    same data, configuration and seed is gone on with. `warm` is a trained tower to start from: only histories that went
    on since are learned from then, and with `epochs: 0` it is fitted to the catalogue and learns nothing. Returns
    figures: epochs, validation_ndcg, seconds, index recall.

    Started by torchrun, all processes train one model into one shared `folder`; the first writes it, and the others
    return nothing.

    Raises:
        InvalidInput: there is nothing to learn from, the index misses its recall, or the folder is not shared.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not len(log) or log.n_items < 2:
        raise InvalidInput("the two-tower needs positive events of at least two items: import more events")
    trainer = Trainer(log, catalogue, np.asarray(segment), config, folder, seed, segments, warm, importance)
    with repeatable(trainer.device):
        trainer.fit()
    trainer.processes.part()
    return trainer.export() if trainer.processes.first else {}


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """A GPU adds up in any order, unless it is told that the same seed must give the same model."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _fingerprint(
    log: Log, config: TwoTowerConfig, seed: int, warm: WarmStart | None, importance: np.ndarray | None
) -> str:
    digest = sha256(json.dumps([asdict(config), seed, log.n_users, log.n_items]).encode())
    for name, value in sorted(warm.weights.items()) if warm else ():
        digest.update(name.encode() + value.numpy().tobytes())
    for array in (log.user, log.item, log.time, log.kind, *(() if importance is None else (importance,))):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write_array(path: Path, array: np.ndarray) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def _progress(batches: Epoch, title: str) -> Iterator[Batch]:
    """A bar on a terminal, nothing in a log (each epoch prints a line)."""
    if not sys.stderr.isatty():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(batches, title, len(batches), console=Console(stderr=True), transient=True)
