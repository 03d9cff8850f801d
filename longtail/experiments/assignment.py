"""Who is in which experiment and meets which variant: a pure function of an id, the salts and the slots.

A layer divides its people into `SLOTS` slots by a hash of the layer's name. An experiment owns some of its layer's
slots, which no other experiment of the layer has, and a ramp only adds slots: nobody who is in moves. Inside, a second
hash, salted by the experiment, picks the variant: it does not depend on the slots, so a ramp changes no variant. Layers
are independent because their salts differ. The holdout is cut off by a hash of its own, the same for all layers.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from longtail.errors import InvalidInput

SLOTS = 10_000
HOLDOUT = "holdout"
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Allocation:
    """Where an experiment lives: slots `[from, to)` of its layer, and the share of each variant inside, in order."""

    layer: str
    salt: str
    slots: Ranges
    shares: Mapping[str, float]
    holdout: float = 0.0

    def __post_init__(self) -> None:
        if any(not 0 <= low < high <= SLOTS for low, high in self.slots):
            raise InvalidInput(f"slots {self.slots} must be ranges within 0 and {SLOTS}")
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise InvalidInput(f"the shares of {self.salt} sum to {sum(self.shares.values()):g}, they must sum to 1")

    @property
    def variants(self) -> tuple[str, ...]:
        """Names in the order of the codes that `assign_all` gives."""
        return tuple(self.shares)

    @cached_property
    def edges(self) -> list[float]:
        """Where the variants end in [0, 1), in order."""
        return np.cumsum(list(self.shares.values())).tolist()

    def variant_of(self, who: str) -> str:
        """The variant of somebody who is in."""
        at = bisect_right(self.edges, place(who, self.salt))
        return self.variants[min(at, len(self.edges) - 1)]


def place(who: str, salt: str) -> float:
    """A number in [0, 1), always the same for an id and a salt, even over all ids."""
    digest = hashlib.blake2b(f"{salt}\0{who}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def places(who: Iterable[str], salt: str) -> np.ndarray:
    """`place` of many ids, float64 [n]."""
    start = f"{salt}\0".encode("utf-8", "surrogatepass")
    base = hashlib.blake2b(start, digest_size=8)
    out = bytearray()
    for one in who:
        hashed = base.copy()
        hashed.update(one.encode("utf-8", "surrogatepass"))
        out += hashed.digest()
    return (np.frombuffer(bytes(out), ">u8").astype(np.uint64) >> np.uint64(11)) / 2**53


def in_holdout(who: str, share: float) -> bool:
    """Is this person one of those that no experiment may touch? A larger share keeps everybody of a smaller one."""
    return place(who, HOLDOUT) < share


def assign(who: str, to: Allocation) -> str | None:
    """The variant of one id: None outside the experiment, `HOLDOUT` in the holdout."""
    if to.holdout and in_holdout(who, to.holdout):
        return HOLDOUT
    slot = slot_of(who, to.layer)
    return to.variant_of(who) if any(low <= slot < high for low, high in to.slots) else None


def slot_of(who: str, layer: str) -> int:
    """The slot of an id in a layer."""
    return int(place(who, _layer_salt(layer)) * SLOTS)


def assign_all(who: Sequence[str], to: Allocation) -> np.ndarray:
    """int8 [n]: index into `to.variants`, -1 outside the experiment, -2 in the holdout; agrees with `assign`."""
    slot = (places(who, _layer_salt(to.layer)) * SLOTS).astype(np.int64)
    inside = np.zeros(len(slot), bool)
    for low, high in to.slots:
        inside |= (slot >= low) & (slot < high)
    out = np.where(inside, _code(places(who, to.salt), to), -1).astype(np.int8)
    if to.holdout:
        out[places(who, HOLDOUT) < to.holdout] = -2
    return out


def grown(slots: Ranges, allocation: float, taken: Iterable[Ranges] = (), layer: str = "default") -> Ranges:
    """`slots` and as many free ones of the `layer` that they make up `allocation` (0..1); those that were in stay in.

    `taken` are the slots of the layer's other experiments. A smaller allocation gives up what was added last.

    Raises:
        InvalidInput: the layer has not so many slots free.
    """
    own = np.zeros(SLOTS, bool)
    order = [s for low, high in slots for s in range(low, high)]
    own[order] = True
    busy = own.copy()
    for others in taken:
        for low, high in others:
            if own[low:high].any():
                raise InvalidInput(f"slots {low} to {high} of the layer {layer} belong to two experiments")
            busy[low:high] = True
    wanted = round(allocation * SLOTS)
    free = np.flatnonzero(~busy)
    if wanted - len(order) > len(free):
        raise InvalidInput(
            f"the layer {layer} has {len(free) / SLOTS:.2%} free, {(wanted - len(order)) / SLOTS:.2%} more are needed: "
            "stop another experiment, or use another layer"
        )
    return _ranges((order + free[: max(wanted - len(order), 0)].tolist())[:wanted])


def _ranges(slots: Sequence[int]) -> Ranges:
    """Runs of consecutive slots, in the given order: the order tells what was added last."""
    out: list[tuple[int, int]] = []
    for slot in slots:
        if out and out[-1][1] == slot:
            out[-1] = (out[-1][0], slot + 1)
        else:
            out.append((slot, slot + 1))
    return tuple(out)


def _code(at: np.ndarray, to: Allocation) -> np.ndarray:
    return np.minimum(np.searchsorted(to.edges, at, side="right"), len(to.edges) - 1)


def _layer_salt(layer: str) -> str:
    return f"layer\0{layer}"
