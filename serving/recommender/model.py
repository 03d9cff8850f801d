"""KServe transformer that runs the engine: JSON instances in, lists with reasons out."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import kserve
import numpy as np
import orjson
from kserve import InferRequest, InferResponse, Model

from longtail.engine.engine import Engine
from longtail.engine.ranker_repository import INPUT, OUTPUT
from longtail.engine.schema import Context, Instance, Recommendation, Request, SessionEvent, parse, parse_json
from longtail.engine.wire import pack_ask, unpack_candidates
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.metrics import REJECTED
from longtail.retrieval.candidates import Ask, Candidates
from serving.edge.v2 import INPUTS, OUTPUTS, instances_of, response_of
from serving.tensors import Hop, HopFailed

NAME = "recommender"
READY_EVERY_S = 1.0
KNOWN_FIELDS = frozenset(
    {"body", *Request.model_fields, *Instance.model_fields, *Context.model_fields, *SessionEvent.model_fields}
)
logger = logging.getLogger("longtail.recommender")


def retriever_hop(address: str, deadline_s: float, version: str, n_sources: int):
    """`Retrieve` over gRPC; its `close` attribute closes the channel."""
    hop = Hop("retriever", address, deadline_s)

    async def retrieve(requests: Requests, ask: Ask) -> Candidates:
        answer = await hop(pack_ask(requests, ask), version)
        try:
            return unpack_candidates(answer, n_sources)
        except InvalidInput as error:
            raise HopFailed(str(error), "malformed") from None

    retrieve.close = hop.close  # type: ignore[attr-defined]
    return retrieve


def ranker_hop(address: str, model: str, deadline_s: float):
    """`Score` over gRPC against a model of Triton; its `close` attribute closes the channel."""
    hop = Hop(model, address, deadline_s)

    async def score(features: np.ndarray) -> np.ndarray:
        if not len(features):
            return np.empty(0, np.float32)
        answer = await hop({INPUT: features})
        if OUTPUT not in answer:
            raise HopFailed(f"the ranker sent no tensor {OUTPUT}", "malformed")
        return answer[OUTPUT].reshape(-1)

    score.close = hop.close  # type: ignore[attr-defined]
    return score


class RecommenderModel(Model):
    """`{"instances": [...]}` -> `{"predictions": [...]}`; ready means that a recommendation came through just now."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(NAME)
        self.engine = engine
        self._checked = (0.0, False)
        self.ready = True

    async def answer(self, body: bytes) -> bytes:
        """A whole v1 body in, a whole v1 answer out.

        Raises:
            InvalidInput: the body is malformed; the message names the field.
        """
        try:
            lists = await self.engine.recommend(parse_json(body).instances)
        except InvalidInput as error:
            raise _counted(error) from None
        return orjson.dumps(_predictions(lists))

    async def infer(self, request: InferRequest) -> InferResponse:
        """The same in the Open Inference Protocol v2.

        Raises:
            InvalidInput: a tensor is malformed; the message names it.
        """
        try:
            lists = await self.engine.recommend(instances_of(request))
        except InvalidInput as error:
            raise _counted(error) from None
        return response_of(request, lists)

    async def predict(self, payload: object, headers: dict[str, str] | None = None) -> dict[str, Any] | InferResponse:
        """KServe's own way in: JSON of v1, or tensors of v2. What is malformed is a 400 that names the field."""
        try:
            if isinstance(payload, InferRequest):
                return await self.infer(payload)
            try:
                return _predictions(await self.engine.recommend(parse(_body(payload)).instances))
            except InvalidInput as error:
                raise _counted(error) from None
        except InvalidInput as error:
            raise kserve.errors.InvalidInput(str(error)) from None

    def get_input_types(self) -> list[dict]:
        """The tensors of v2, for the metadata endpoints."""
        return INPUTS

    def get_output_types(self) -> list[dict]:
        """The tensors that v2 answers."""
        return OUTPUTS

    async def probe(self) -> bool:
        """Whether a list with items comes out now; the verdict is kept for a second so that probes stay cheap.

        A dead ranker or retriever does not make the recommender unready: its fallback is what must keep answering.
        """
        now = time.monotonic()
        if now - self._checked[0] > READY_EVERY_S:
            try:
                lists = await asyncio.wait_for(self.engine.recommend([Instance(k=1)]), 10)
                self._checked = (now, bool(lists[0].items))
            except Exception as error:  # noqa: BLE001 - a probe's answer is yes or no
                logger.error("not ready: %s: %s", type(error).__name__, error)
                self._checked = (now, False)
        return self._checked[1]

    def stop(self) -> None:
        """Drain what is logged, then stop."""
        self.ready = False
        if self.engine.impressions is not None:
            self.engine.impressions.close()


def _predictions(lists: Sequence[Recommendation]) -> dict[str, Any]:
    return {"predictions": [answer.as_dict() for answer in lists]}


def _counted(error: InvalidInput) -> InvalidInput:
    """Count a refusal under the field that it names, whatever its place in the batch.

    Names that are not the protocol's come from the caller: each would be a counter of its own, for ever.
    """
    field = re.sub(r"\[\d+\]", "", str(error).split(":")[0])
    REJECTED.labels(field if KNOWN_FIELDS.issuperset(field.split(".")) else "other").inc()
    return error


def _body(payload: object) -> object:
    """The JSON body, whatever content type it came with."""
    if isinstance(payload, (bytes, str)):
        try:
            return json.loads(payload)
        except ValueError as error:
            raise InvalidInput(f"body: is not JSON ({error})") from None
    return payload
