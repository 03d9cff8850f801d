"""KServe predictor that proposes candidates: request tensors in, candidate tensors out."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kserve
import numpy as np
from kserve import InferRequest, InferResponse, Model

from longtail.engine.bundle import Manifest, verify
from longtail.engine.wire import pack_candidates, unpack_ask
from longtail.errors import InvalidInput
from longtail.events import Histories, Requests
from longtail.retrieval import Ask, Candidates, Retriever
from serving.tensors import arrays_of, response_of, version_of

NAME = "retriever"
logger = logging.getLogger("longtail.retriever")


class RetrieverModel(Model):
    """Holds one bundle's sources. In: `pack_ask`; out: `pack_candidates`."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(NAME)
        self.bundle = Path(bundle)
        self.manifest: Manifest | None = None
        # One worker: the sources' arithmetic is bound to a core, the event loop stays free for health checks.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="retriever")

    def load(self) -> bool:
        """Verify the bundle, load its sources, and answer one request before saying ready.

        Raises:
            InvalidBundle: a part of the bundle is missing, altered, or does not fit.
        """
        import pyarrow.parquet as pq

        self.manifest = verify(self.bundle)
        self.n_items = pq.read_metadata(self.bundle / "catalogue" / "items.parquet").num_rows
        self.retriever = Retriever.load(self.bundle / "retrieval")
        newcomer = Requests(
            np.array([time.time_ns() // 1000]), np.array([-1], np.int32), np.array([-1], np.int32), Histories.empty(1)
        )
        self.retriever.candidates(newcomer, 10)
        self.ready = True
        return self.ready

    async def predict(self, payload: object, headers: dict[str, str] | None = None) -> InferResponse:
        """Candidates of a batch; a request for another bundle version is refused."""
        if not isinstance(payload, InferRequest) or self.manifest is None:
            raise kserve.errors.InvalidInput("the retriever speaks the Open Inference Protocol v2: send tensors")
        asked = version_of(payload)
        if asked and asked != self.manifest.version:
            raise kserve.errors.InvalidInput(
                f"bundle_version: this retriever serves {self.manifest.version}, not {asked}"
            )
        try:
            requests, ask = unpack_ask(arrays_of(payload), self.n_items, len(self.retriever.sources))
        except InvalidInput as error:
            raise kserve.errors.InvalidInput(str(error)) from None
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._worker, self._candidates, requests, ask)
        return response_of(payload, pack_candidates(found), self.manifest.version)

    def _candidates(self, requests: Requests, ask: Ask) -> Candidates:
        return self.retriever.candidates(requests, ask.n, ask.also, ask.weights)
