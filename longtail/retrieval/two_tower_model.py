"""The torch modules of the two-tower, its loss, and the ONNX export of the user tower."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.retrieval.two_tower import GAP_BUCKETS, TwoTowerConfig
from longtail.retrieval.two_tower_content import ContentBag
from longtail.schema import EVENT_TYPES


class Dropout(nn.Module):
    """Dropout whose mask on a CPU is drawn as bytes: torch draws it a number at a time, a third of a training step."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.rng = np.random.default_rng(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero a share of x and scale up the rest; identity when not training."""
        if not self.training or self.share <= 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        cut = round(self.share * 256)
        mask = np.frombuffer(self.rng.bytes(x.numel()), np.uint8).reshape(x.shape) >= cut
        return x * torch.from_numpy(mask).to(x.dtype).mul_(256 / (256 - cut))


class Block(nn.Module):
    """Pre-norm causal self-attention with a learned bias per distance, then a feed-forward layer."""

    def __init__(self, dim: int, heads: int, last: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim  # a size of a tensor would be computed in every call of an exported graph
        self.norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.distance = nn.Parameter(torch.zeros(heads, last + 1))
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, distance: Tensor, future: Tensor, place: Tensor | None = None) -> Tensor:
        """x [B, T, d]; `distance` int64 [T, T] steps back, `future` [T, T] is -1e9 where the key is later.

        What is read at one `place` int64 [1] alone, the same in all B, costs a fraction of all T: [B, 1, d].
        """
        d = self.dim
        normal = self.norm(x)
        if place is None:
            q, k, v = self._parts(normal, self.qkv.weight, self.qkv.bias)
        else:
            weights, biases = self.qkv.weight.split([d, 2 * d]), self.qkv.bias.split([d, 2 * d])
            (q,) = self._parts(normal[:, place], weights[0], biases[0])
            k, v = self._parts(normal, weights[1], biases[1])
            x, distance, future = x[:, place], distance[place], future[place]
        bias = self.distance[:, distance] + future
        weight = torch.softmax((q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5 + bias, dim=-1)
        x = x + self.drop(self.out((weight @ v).transpose(1, 2).reshape(len(x), -1, d)))
        return x + self.drop(self.down(F.gelu(self.up(self.forward_norm(x)))))

    def _parts(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """Those of queries, keys and values whose weights are given, each [B, heads, T, d / heads]."""
        n, width = len(bias) // self.dim, self.dim // self.heads
        parts = F.linear(x, weight, bias).reshape(len(x), -1, n, self.heads, width)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)


class UserTower(nn.Module):
    """History vectors in order -> one state per prefix; state 0 is the learned start of an empty history."""

    def __init__(self, config: TwoTowerConfig, segments: int) -> None:
        super().__init__()
        d = config.dim
        self.last, self.scale = config.last, d**0.5  # vectors of length one -> entries of variance one
        self.start = nn.Parameter(torch.randn(d) * 0.1)
        self.kind, self.gap = nn.Embedding(len(EVENT_TYPES), d), nn.Embedding(GAP_BUCKETS, d)
        self.since, self.segment = nn.Embedding(GAP_BUCKETS, d), nn.Embedding(segments + 1, d)
        self.hour, self.weekday = nn.Embedding(24, d), nn.Embedding(7, d)
        for table in (self.kind, self.gap, self.since, self.segment, self.hour, self.weekday):
            nn.init.normal_(table.weight, std=0.01)
        self.enter = nn.Linear(d, d)
        self.blocks = nn.ModuleList(Block(d, config.heads, config.last, config.dropout) for _ in range(config.layers))
        self.norm, self.context_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d))
        self.drop = Dropout(config.dropout)
        steps = torch.arange(config.last + 1)
        back = steps[:, None] - steps[None, :]
        self.register_buffer("distance", back.clamp(min=0), persistent=False)
        self.register_buffer("future", torch.where(back < 0, -1e9, 0.0), persistent=False)

    def states(self, history: Tensor, kind: Tensor, gap: Tensor, place: Tensor | None = None) -> Tensor:
        """history float [B, T, d], kind and gap int64 [B, T] -> [B, T + 1, d]; [B, 1, d] of one `place` int64 [1]."""
        x = self.enter(history * self.scale) + self.kind(kind) + self.gap(gap)
        start = self.start + torch.zeros_like(kind[:, :1])[..., None]
        x = self.drop(torch.cat([start, x], 1))
        t = x.shape[1]
        seen = self.distance[:t, :t], self.future[:t, :t]
        for block in self.blocks[:-1]:
            x = block(x, *seen)
        return self.norm(self.blocks[-1](x, *seen, place))

    def vector(self, state: torch.Tensor, since: torch.Tensor, segment: torch.Tensor, hour: torch.Tensor,
               weekday: torch.Tensor) -> torch.Tensor:  # fmt: skip
        """State of a prefix [P, d] and the context of the request -> user vector of length one [P, d]."""
        context = self.since(since) + self.segment(segment) + self.hour(hour) + self.weekday(weekday)
        z = state + context
        return F.normalize(z + self.head(self.context_norm(z)), dim=-1)

    def forward(
        self, history: Tensor, kind: Tensor, gap: Tensor, length: Tensor, since: Tensor, segment: Tensor,
        hour: Tensor, weekday: Tensor,
    ) -> Tensor:  # fmt: skip
        """The exported graph, of one request: `length` int64 [1] says which state is read."""
        return self.vector(self.states(history, kind, gap, length)[:, 0], since, segment, hour, weekday)


class ItemTower(nn.Module):
    """Id vector plus content tokens; without the id what is left is what a new item would get."""

    def __init__(self, n_items: int, n_tokens: int, bag: ContentBag, config: TwoTowerConfig) -> None:
        super().__init__()
        self.id, self.content = nn.Embedding(n_items, config.dim), nn.Embedding(max(n_tokens, 1), config.dim)
        nn.init.normal_(self.id.weight, std=config.dim**-0.5)
        nn.init.normal_(self.content.weight, std=0.3 * config.dim**-0.5)
        self.id_dropout = config.id_dropout
        self.bag = bag

    def forward(self, items: np.ndarray, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors of length one [n, d] of distinct items int64 [n]; where `seen` is 0 the id is left out."""
        device = self.id.weight.device
        start, length = self.bag.indptr[items], self.bag.indptr[items + 1] - self.bag.indptr[items]
        offsets = np.concatenate([[0], np.cumsum(length)])
        flat = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
        identity = self.id(torch.as_tensor(items, device=device))
        if self.training and self.id_dropout > 0:
            identity = identity * (torch.rand(len(items), 1, device=device) >= self.id_dropout)
        if seen is not None:
            identity = identity * seen[:, None]
        content = F.embedding_bag(
            torch.as_tensor(self.bag.token[flat], device=device), self.content.weight,
            torch.as_tensor(offsets[:-1], device=device), mode="sum",
            per_sample_weights=torch.as_tensor(self.bag.weight[flat], device=device),
        )  # fmt: skip
        return F.normalize(identity + content, dim=-1)


class SampledSoftmax(torch.autograd.Function):
    """Weighted mean of -log p(target) with shared negatives; gradients are made in the forward pass, chunk by chunk.

    A chunk's logits stay in the cache, which makes this several times faster than cross entropy on the whole matrix.
    users [P, d], targets [P, d], negatives [C, d], log_q [C] (log of the expected count of each negative), hit int64
    [P] (column of the target among the negatives, -1 none), weight [P] (sums to 1), half: multiply in bfloat16.
    The target itself is not corrected: it is always there (Yi et al. 2019; Khrylchenko et al. 2025).
    """

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, targets: Tensor, negatives: Tensor, log_q: Tensor, hit: Tensor, weight: Tensor,
        scale: float, half: bool,
    ) -> Tensor:  # fmt: skip
        kind = torch.bfloat16 if half else torch.float32
        users, targets, negatives = users.float(), targets.float(), negatives.float()
        low = negatives.to(kind)
        d_users, d_targets = torch.empty_like(users), torch.empty_like(targets)
        d_negatives = torch.zeros_like(negatives)
        loss = users.new_zeros(())
        chunk = 512 if users.device.type == "cpu" else len(users)
        for i in range(0, len(users), chunk):
            u, v, w, at = users[i : i + chunk], targets[i : i + chunk], weight[i : i + chunk], hit[i : i + chunk]
            u_low = u.to(kind)
            logits = (u_low @ low.T).float().mul_(scale).sub_(log_q)
            rows = torch.nonzero(at >= 0).squeeze(1)
            logits[rows, at[rows]] = -torch.inf
            own = (u * v).sum(1) * scale
            top = torch.maximum(logits.amax(1), own)
            share = logits.sub_(top[:, None]).exp_()
            own_share = (own - top).exp()
            total = share.sum(1) + own_share
            loss += (w * (total.log() + top - own)).sum()
            share.mul_((scale * w / total)[:, None])
            own_step = (scale * w * (own_share / total - 1))[:, None]
            share_low = share.to(kind)
            d_users[i : i + chunk] = (share_low @ low).float() + own_step * v
            d_targets[i : i + chunk] = own_step * u
            d_negatives += (share_low.T @ u_low).float()
        ctx.save_for_backward(d_users, d_targets, d_negatives)
        return loss

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Tensor | None, ...]:
        d_users, d_targets, d_negatives = ctx.saved_tensors
        return step * d_users, step * d_targets, step * d_negatives, None, None, None, None, None


def seed_everything(modules: nn.Module, seed: int) -> None:
    """Fix what the next epoch draws."""
    torch.manual_seed(seed)
    for n, module in enumerate(m for m in modules.modules() if isinstance(m, Dropout)):
        module.rng = np.random.default_rng((seed, n))


def export_user_tower(tower: UserTower, path: Path) -> None:
    """Write the user tower as ONNX: one request at a time, with as many places as its history has events."""
    tower = tower.cpu().float().eval()
    ints = lambda *shape: torch.zeros(shape, dtype=torch.int64)  # noqa: E731
    last = tower.last
    inputs = (torch.zeros(1, last, tower.start.shape[0]), ints(1, last), ints(1, last), *(ints(1) for _ in range(5)))
    names = ["history", "kind", "gap", "length", "since", "segment", "hour", "weekday"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower, inputs, str(path), input_names=names, output_names=["user"], opset_version=17, dynamo=False,
            dynamic_axes={n: {1: "steps"} for n in names[:3]},
        )  # fmt: skip
