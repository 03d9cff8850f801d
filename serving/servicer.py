"""The quick way into a model that takes tensors over gRPC; everything else goes to KServe's servicer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import kserve
import numpy as np
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from longtail.errors import InvalidInput
from serving.tensors import raw_arrays, raw_response, raw_version


class Answers(Protocol):
    """A model that takes and gives arrays by name."""

    name: str

    async def propose(
        self, arrays: Mapping[str, np.ndarray], version: str | None
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """(arrays, version of the bundle that made them); `InvalidInput` says what is wrong."""


class TensorServicer(InferenceServicer):
    """Answers `ModelInfer` of one model where all tensors are raw, without KServe's objects in between.

    Those cost more than the call itself.
    """

    def __init__(self, dataplane: DataPlane, repository: ModelRepositoryExtension, model: Answers) -> None:
        super().__init__(dataplane, repository)
        self._model = model

    async def ModelInfer(self, request: ModelInferRequest, context: Any) -> ModelInferResponse:
        """See `Answers.propose`; what is malformed is INVALID_ARGUMENT."""
        if request.model_name != self._model.name or not request.raw_input_contents:
            return await super().ModelInfer(request, context)
        try:
            arrays = raw_arrays(request.inputs, request.raw_input_contents)
            found, version = await self._model.propose(arrays, raw_version(request))
        except InvalidInput as error:
            raise kserve.errors.InvalidInput(str(error)) from None  # the interceptor makes a status of it
        return raw_response(request.model_name, found, version, request.id)
