"""The business metrics of an experiment: what is summed for each unit, and over what it is divided."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Event = Literal["impression", "view", "click", "add_to_cart", "purchase", "rating"]
Per = Literal["unit", "session", "impression", "view", "click", "add_to_cart", "purchase"]

BUILTIN: dict[str, dict[str, Any]] = {
    "revenue": {"event": "purchase", "of": "value", "winsorise": 0.999},
    "conversion": {"event": "purchase", "of": "any"},
    "purchases": {"event": "purchase"},
    "order_value": {"event": "purchase", "of": "value", "per": "purchase"},
    "clicks": {"event": "click"},
    "ctr": {"event": "click", "per": "impression"},
    "carts": {"event": "add_to_cart"},
    "cart_rate": {"event": "add_to_cart", "per": "session"},
    "views": {"event": "view"},
    "sessions": {"event": "any", "of": "sessions"},
    "returns": {"event": "purchase", "of": "returned", "better": "lower"},
}


class Metric(BaseModel):
    """One metric. `name: revenue` is enough for a built-in one; keys beside the name change it or make a new one.

    `event` is what counts, `of` what is summed: the number of events (`count`), their money (`value`, returns are
    negative), whether there was one (`any`), the money that went back (`returned`), or visits (`sessions`, with
    `event: any`). `per: unit` is a mean over units; anything else a ratio of sums (delta method). `winsorise`: a unit's
    sum counts at most as much as this quantile of all units' sums, where that is above 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    event: Event | Literal["any"]
    of: Literal["count", "value", "any", "returned", "sessions"] = "count"
    per: Per = "unit"
    better: Literal["higher", "lower"] = "higher"
    winsorise: float | None = Field(None, gt=0.5, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _with_builtin(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        elif not isinstance(data, dict | Metric):
            raise ValueError(f"name a metric ({', '.join(BUILTIN)}), or write its `name` and `event` below it")
        if isinstance(data, dict):
            base = BUILTIN.get(str(data.get("name")), {})
            if not base and "name" in data and "event" not in data:
                raise ValueError(f"no built-in metric {data['name']!r}: say its `event`, or use {', '.join(BUILTIN)}")
            data = base | data
        return data

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if (self.of == "sessions") != (self.event == "any"):
            raise ValueError("`of: sessions` goes with `event: any`, and with nothing else")
        if self.of == "any" and self.per != "unit":
            raise ValueError("`of: any` is a share of units: leave out `per`")
        if self.winsorise is not None and self.of not in ("value", "returned"):
            raise ValueError("`winsorise` is for money: `of: value` or `of: returned`")
        return self

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return 1 if self.better == "higher" else -1

    @property
    def numerator(self) -> str:
        """The column of `log.COLUMNS` that is summed."""
        if self.event == "any":
            return "session_count"
        return f"{self.event}_{'count' if self.of == 'any' else self.of}"

    @property
    def denominator(self) -> str | None:
        """The column that divides, None for a mean over units."""
        return None if self.per == "unit" else f"{self.per}_count"
