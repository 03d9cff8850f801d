"""The recommender's two hops: candidates from the retriever, scores from Triton."""

from __future__ import annotations

import numpy as np

from longtail.engine.parts import Bundle
from longtail.engine.ranker_repository import INPUT, OUTPUT
from longtail.engine.wire import pack_ask, unpack_candidates
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.retrieval.candidates import Ask, Candidates
from serving.hop import Hop, HopFailed


class RetrieverHop:
    """`Retrieve`: a bundle's candidates from the retriever at an address."""

    def __init__(self, address: str, bundle: Bundle) -> None:
        self._hop = Hop("retriever", address)
        self._version, self._n_sources = bundle.version, len(bundle.sources)

    async def __call__(self, requests: Requests, ask: Ask) -> Candidates:
        answer = await self._hop(pack_ask(requests, ask), self._version)
        try:
            return unpack_candidates(answer, self._n_sources)
        except InvalidInput as error:
            raise HopFailed(str(error), "malformed") from None

    async def close(self) -> None:
        """Close the connections."""
        self._hop.close()


class RankerHop:
    """`Score`: a bundle's ranker behind Triton at an address."""

    def __init__(self, address: str, bundle: Bundle) -> None:
        self._hop = Hop(bundle.ranker, address)

    async def __call__(self, features: np.ndarray) -> np.ndarray:
        if not len(features):
            return np.empty(0, np.float32)
        answer = await self._hop({INPUT: features})
        if OUTPUT not in answer:
            raise HopFailed(f"the ranker sent no tensor {OUTPUT}", "malformed")
        return answer[OUTPUT].reshape(-1)

    async def close(self) -> None:
        """Close the connections."""
        self._hop.close()
