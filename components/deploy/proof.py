"""Real recommendations as proof: a service that is called Ready may still answer nobody."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

PATH = "/v1/models/recommender:predict"
KEY_VARIABLE = "LONGTAIL_API_KEY"
IN_A_ROW = 20


@dataclass(frozen=True)
class Wanted:
    """What lists must say: the variant whose version it is, and the version; other variants may say what they like."""

    variant: str
    version: str


def ask(url: str, timeout_s: float = 10.0) -> dict[str, Any]:
    """A list for a guest of a new session, over a connection of its own, with `LONGTAIL_API_KEY` where it is set.

    Raises:
        OSError, HTTPException, ValueError, LookupError: no list came.
    """
    instance = {"surface": "homepage", "k": 5, "context": {"session_id": f"deploy-{uuid.uuid4().hex}"}}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY_VARIABLE):
        headers["X-API-Key"] = key
    request = Request(url.rstrip("/") + PATH, json.dumps({"instances": [instance]}).encode(), headers)
    with urlopen(request, timeout=timeout_s) as response:
        return json.load(response)["predictions"][0]


def prove(url: str, wanted: Wanted | None, timeout_s: float, every_s: float = 0.5) -> str:
    """Ask until so many full lists in a row came, all of `wanted`'s variant from its version; empty, or what is wrong.

    Different sessions fall on different variants and reach different pods. Without `wanted` any full list will do.
    """
    deadline, sound = time.monotonic() + timeout_s, 0
    while True:
        wrong = _wrong(url, wanted)
        if wrong == "":
            sound += 1
            if sound == IN_A_ROW:
                return ""
            continue  # what goes well is not cut off
        if time.monotonic() > deadline:
            return f"{sound} of {IN_A_ROW} lists of {wanted.variant} came" if wanted and wrong == OTHER else wrong
        if wrong != OTHER:
            sound = 0
            time.sleep(every_s)


OTHER = "another variant answered"


def _wrong(url: str, wanted: Wanted | None) -> str:
    try:
        answer = ask(url)
        if wanted is not None and answer["variant"] != wanted.variant:
            return OTHER
        if not answer["items"]:
            return "a list was empty"
        if answer["level"] != "full":
            return f"a list was {answer['level']} ({answer.get('cause') or 'no cause given'})"
        if wanted is not None and answer["model_version"] != wanted.version:
            return f"{wanted.variant} still answers with {answer['model_version']}"
    except (OSError, HTTPException, ValueError, LookupError) as error:
        return f"{url} answers no list ({error})"
    return ""
