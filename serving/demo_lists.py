"""What the demo shows: lists of people as tables, and how two clicks change one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from longtail.engine.baked import BakedPeople
from longtail.identity.pseudonyms import GIVEN
from longtail.schema import GUEST_PREFIX

Ask = Callable[[dict[str, Any]], dict[str, Any]]
Tell = Callable[[list[dict[str, Any]]], object]
K = 8
NEW = {"user_id": "somebody-new", "k": K}
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Lists:
    """A bundle's items by id, one returning user, and what that user did last (newest first)."""

    items: pd.DataFrame
    user: str
    recent: list[str]

    @staticmethod
    def open(bundle: Path) -> Lists:
        """Read a bundle; the returning user is a typical active one: the 90th percentile by interactions."""
        items = pd.read_parquet(bundle / "catalogue" / "items.parquet").set_index("item_id")
        people = BakedPeople.open(bundle)
        counts = people.history.lengths
        busiest = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        signed_in = busiest[~np.strings.startswith(people.ids.ids[busiest], GUEST_PREFIX.encode())]
        known = signed_in if len(signed_in) else busiest
        person = int(known[int(len(known) * 0.1)])
        newest = people.histories(np.array([person])).item[::-1]
        return Lists(items, people.ids.ids[person].decode(), [str(items.index[i]) for i in dict.fromkeys(newest)])

    def name(self, item_id: str) -> str:
        """Title and category of an item, as far as the catalogue has them."""
        row = self.items.loc[item_id]
        words = [str(row[c]) for c in ("title", "category") if isinstance(row.get(c), str)]
        return " · ".join(words) or item_id


def show(ask: Ask, tell: Tell, lists: Lists, console: Console) -> None:
    """A returning user's list, a new user's list, two clicks told to the collector, and how the list changes."""
    console.print(f"[bold]A returning user[/bold] {lists.user[:12]}, who last wanted", highlight=False)
    for item in lists.recent[:3]:
        console.print(f"    {lists.name(item)}", highlight=False, markup=False)
    console.print(table(ask({"user_id": GIVEN + lists.user, "k": K}), lists))

    console.print("\n[bold]A new user[/bold], of whom nothing is known")
    new = ask(NEW)
    console.print(table(new, lists))

    clicks = two_clicks(new, lists)
    console.print("\n[bold]The new user clicks[/bold]")
    for item in clicks:
        console.print(f"    {lists.name(item)}", highlight=False, markup=False)
    start = time.monotonic()
    tell([{"user_id": NEW["user_id"], "item_id": item, "event_type": "click"} for item in clicks])
    after = ask(NEW)
    while ids(after) == ids(new) and time.monotonic() - start < PATIENCE_S:
        time.sleep(0.05)
        after = ask(NEW)
    took = (time.monotonic() - start) * 1e3
    console.print(table(after, lists, before=new))
    fresh = len(set(ids(after)) - set(ids(new)))
    said = f"{took:.0f} ms after the clicks the list is another one: {fresh} of its {len(ids(after))} items are new"
    if ids(after) == ids(new):
        said = "the clicks did not change the list"
    console.print(f"{said}\n", highlight=False)


def two_clicks(answer: dict[str, Any], lists: Lists) -> list[str]:
    """Two items of the list that belong together: of the same category where there are two, else the first two."""
    shown = ids(answer)
    categories = lists.items["category"].reindex(shown).astype(object).to_numpy()
    for category in pd.unique(categories):
        same = np.flatnonzero(categories == category)
        if len(same) >= 2:
            return [shown[i] for i in same[:2]]
    return shown[:2]


def ids(answer: dict[str, Any]) -> list[str]:
    """The items of a response, best first."""
    return [item["item_id"] for item in answer["items"]]


def table(answer: dict[str, Any], lists: Lists, before: dict[str, Any] | None = None) -> Table:
    """A response as a table; with `before`, each item's place in that earlier response."""
    earlier = {item: place for place, item in enumerate(ids(before), 1)} if before else {}
    out = Table("", "item", "score", "source", "why", title_justify="left", expand=True)
    if before:
        out.add_column("was")
    for place, item in enumerate(answer["items"], 1):
        was = [str(earlier.get(item["item_id"], "new"))] if before else []
        row = (str(place), lists.name(item["item_id"]), f"{item['score']:.3f}", item["source"], item["reason"], *was)
        out.add_row(*row)
    cause = f" ({answer['cause']})" if answer.get("cause") else ""
    out.caption = f"model {answer['model_version']}, variant {answer['variant']}, level {answer['level']}{cause}"
    return out
