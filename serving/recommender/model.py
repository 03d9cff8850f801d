"""KServe transformer that runs the engine: JSON instances in, lists with reasons out."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import kserve
import orjson
from kserve import InferRequest, InferResponse, Model

from longtail.engine.engine import Engine
from longtail.engine.fleet import Fleet
from longtail.engine.schema import Context, Instance, Recommendation, Request, SessionEvent, parse, parse_json
from longtail.errors import InvalidInput
from longtail.metrics import REJECTED, UPKEEP_ERRORS
from serving.edge.v2 import INPUTS, OUTPUTS, instances_of, response_of

NAME = "recommender"
READY_EVERY_S = 1.0
PROBE_S = 10.0
PROOF_S = 60.0
KNOWN_FIELDS = frozenset(
    {"body", *Request.model_fields, *Instance.model_fields, *Context.model_fields, *SessionEvent.model_fields}
)
logger = logging.getLogger("longtail.recommender")


class RecommenderModel(Model):
    """`{"instances": [...]}` -> `{"predictions": [...]}`; `upkeep` runs beside the server as long as it does."""

    def __init__(
        self,
        serving: Fleet | Engine,
        upkeep: Callable[[], Coroutine[Any, Any, None]] | None = None,
        proof_s: float = PROOF_S,
    ) -> None:
        super().__init__(NAME)
        self.fleet = serving if isinstance(serving, Fleet) else Fleet.of(serving)
        self.engine = True  # KServe then starts `start_engine` beside its servers
        self._upkeep_of = upkeep
        self._upkeep: asyncio.Task[None] | None = None
        self._proof_s, self._born, self._proven = proof_s, time.monotonic(), False
        self._checked = (0.0, False)
        self.ready = True

    async def answer(self, body: bytes) -> bytes:
        """A whole v1 body in, a whole v1 answer out.

        Raises:
            InvalidInput: the body is malformed; the message names the field.
        """
        try:
            lists = await self.fleet.recommend(parse_json(body).instances)
        except InvalidInput as error:
            raise _counted(error) from None
        return orjson.dumps(_predictions(lists))

    async def infer(self, request: InferRequest) -> InferResponse:
        """The same in the Open Inference Protocol v2.

        Raises:
            InvalidInput: a tensor is malformed; the message names it.
        """
        try:
            lists = await self.fleet.recommend(instances_of(request))
        except InvalidInput as error:
            raise _counted(error) from None
        return response_of(request, lists)

    async def predict(self, payload: object, headers: dict[str, str] | None = None) -> dict[str, Any] | InferResponse:
        """KServe's own way in: JSON of v1, or tensors of v2. What is malformed is a 400 that names the field."""
        try:
            if isinstance(payload, InferRequest):
                return await self.infer(payload)
            try:
                return _predictions(await self.fleet.recommend(parse(_body(payload)).instances))
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
        """Whether lists with items come out now; the verdict is kept for a second so that probes stay cheap.

        A dead ranker or retriever does not make a recommender unready: its fallback is what must keep answering. But a
        new one must have given a full list once, or be `proof_s` old: else a rollout would replace servers that work by
        servers that only ever fall back.
        """
        now = time.monotonic()
        if now - self._checked[0] > READY_EVERY_S:
            try:
                lists = await asyncio.wait_for(self.fleet.probe(), PROBE_S)
                self._proven = self._proven or all(a.level == "full" for a in lists) or now - self._born > self._proof_s
                self._checked = (now, self._proven and all(a.items for a in lists))
            except Exception as error:  # noqa: BLE001 - a probe's answer is yes or no
                logger.error("not ready: %s: %s", type(error).__name__, error)
                self._checked = (now, False)
        return self._checked[1] and self.ready

    def status(self) -> dict[str, Any]:
        """What `GET /v1/status` answers: the variants, and what was refused last."""
        return {"ready": self.ready and self._checked[1], **self.fleet.status()}

    async def start_engine(self) -> None:
        """Run the upkeep until the server stops; a mistake in it must not end the server."""
        while self._upkeep_of is not None and self.ready:
            task = self._upkeep = asyncio.create_task(self._upkeep_of())
            try:
                await task
            except asyncio.CancelledError:
                return
            except Exception as error:
                UPKEEP_ERRORS.labels(type(error).__name__).inc()
                logger.exception("upkeep failed and starts again")
                await asyncio.sleep(1)

    def stop(self) -> None:
        """End the upkeep and write what waits in the logs; KServe calls it after the last request."""
        self.ready = False
        if self._upkeep is not None:
            self._upkeep.cancel()
        self.fleet.stop_logs()


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
