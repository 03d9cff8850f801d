"""Training the two-tower in several processes, each with its share of every batch; torchrun starts them.

All processes hold the whole model and the whole log. Of a batch each computes the windows that fall to it, and the
gradients are added up, so that a step is that of the whole batch whatever the number of processes: the model does not
depend on it but for rounding and for what dropout draws.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from longtail.errors import InvalidInput
from longtail.retrieval.two_tower_windows import Batch

# Longer than the slowest thing that one process does while the others wait: validation over all items.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `count`; alone it is number 0 of 1, and nothing here costs anything."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def join(device: str) -> Processes:
        """Meet the processes that torchrun started beside this one; `device` is the kind that all compute on."""
        if not dist.is_torchelastic_launched():
            return Processes()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
        return Processes(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and validates."""
        return self.rank == 0

    def device(self, kind: str) -> str:
        """The device of this process: with several GPUs in a machine, each process has its own."""
        return f"cuda:{os.environ['LOCAL_RANK']}" if kind == "cuda" and self.count > 1 else kind

    def share(self, batch: Batch) -> Batch:
        """Every `count`-th window of a batch, with its targets."""
        if self.count == 1:
            return batch
        window, step = np.divmod(batch.state, batch.item.shape[1] + 1)
        mine = np.flatnonzero(window % self.count == self.rank)
        state = window[mine] // self.count * (batch.item.shape[1] + 1) + step[mine]
        rows = slice(self.rank, None, self.count)
        targets = {n: getattr(batch, n)[mine] for n in ("target", "weight", "since", "segment", "hour", "weekday")}
        return replace(batch, item=batch.item[rows], kind=batch.kind[rows], gap=batch.gap[rows], state=state, **targets)

    def add_up(self, parameters: list[torch.nn.Parameter], rows: dict[int, torch.Tensor], loss: float) -> float:
        """Add up the gradients of all processes, and return their loss added up.

        `rows` int64 [n], by place among `parameters`: the rows of a large table that the whole batch can reach, the
        same in every process; the others have no gradient anywhere and are not sent.
        """
        parts = []
        for n, parameter in enumerate(parameters):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parts.append(parameter.grad[rows[n]] if n in rows else parameter.grad)
        sent = torch.cat([part.flatten() for part in parts] + [parts[0].new_tensor([loss])])
        dist.all_reduce(sent)
        start = 0
        for n, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
            told = sent[start : start + part.numel()].view_as(part)
            start += part.numel()
            if n in rows:
                parameter.grad[rows[n]] = told
            else:
                part.copy_(told)
        return float(sent[-1])

    def agree(self, *values: float) -> list[float]:
        """What the first process says: on what decides how training goes on, all must be of one mind."""
        if self.count == 1:
            return list(values)
        kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
        told = torch.tensor(values, dtype=torch.float64, device=kind)
        dist.broadcast(told, 0)
        return told.tolist()

    def check(self, epoch: int) -> None:
        """Every process must have found the same checkpoint.

        Raises:
            InvalidInput: they did not: they do not see the same folder.
        """
        if int(self.agree(epoch)[0]) != epoch:
            raise InvalidInput("the processes found different checkpoints: train into a folder that all of them share")

    def part(self) -> None:
        """Leave the others, who may be done at another time."""
        if self.count > 1:
            dist.destroy_process_group()
