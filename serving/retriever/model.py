"""KServe predictor that proposes candidates: request tensors in, candidate tensors out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import kserve
import numpy as np
from kserve import InferRequest, InferResponse, Model

from longtail.engine.deployment import DeploymentWatch
from longtail.engine.wire import pack_candidates, unpack_ask
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.retrieval import Ask, Candidates, Retriever
from serving.retriever.bundles import Bundles
from serving.retriever.together import MOST, Together
from serving.tensors import arrays_of, response_of, version_of

NAME = "retriever"


class RetrieverModel(Model):
    """Proposes with the bundle that a request names. In: `pack_ask`; out: `pack_candidates`."""

    def __init__(self, bundles: Bundles, watch: DeploymentWatch | None = None) -> None:
        super().__init__(NAME)
        self._bundles, self._watch = bundles, watch
        # One worker: the sources' arithmetic is bound to a core; during large batches health checks are answered.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="retriever")
        self._together = Together()
        self._upkeep: asyncio.Task[None] | None = None
        self.engine = watch is not None  # KServe then starts `start_engine` beside its servers
        self.ready = True

    async def predict(self, payload: object, headers: dict[str, str] | None = None) -> InferResponse:
        """KServe's own way in; what is malformed is a 400 that names it."""
        if not isinstance(payload, InferRequest):
            raise kserve.errors.InvalidInput("the retriever speaks the Open Inference Protocol v2: send tensors")
        try:
            found, version = await self.propose(arrays_of(payload), version_of(payload))
        except InvalidInput as error:
            raise kserve.errors.InvalidInput(str(error)) from None
        return response_of(payload, found, version)

    async def propose(
        self, arrays: Mapping[str, np.ndarray], version: str | None
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """Candidates of a batch, and the version of the bundle that proposed them.

        Raises:
            InvalidInput: a tensor is malformed, or no bundle of this version is held.
        """
        held = self._bundles.find(version)
        if held is None:
            raise InvalidInput(
                f"bundle_version: this retriever serves {', '.join(self._bundles.versions)}, not {version}"
            )
        requests, ask = unpack_ask(arrays, held.n_items, len(held.retriever.sources))
        if len(requests) <= MOST:
            return pack_candidates(await self._together.candidates(held.retriever, requests, ask)), held.version
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._worker, _candidates, held.retriever, requests, ask)
        return pack_candidates(found), held.version

    async def start_engine(self) -> None:
        """Follow the deployment file until the server stops."""
        if self._watch is not None:
            self._upkeep = asyncio.create_task(self._bundles.follow(self._watch))
            try:
                await self._upkeep
            except asyncio.CancelledError:
                return

    def stop(self) -> None:
        """End the upkeep; KServe calls it after the last request."""
        self.ready = False
        if self._upkeep is not None:
            self._upkeep.cancel()


def _candidates(retriever: Retriever, requests: Requests, ask: Ask) -> Candidates:
    return retriever.candidates(requests, ask.n, ask.also, ask.weights)
