"""Triton python-backend model of the ranker: XGBoost's trees on one CPU thread. Copied into the bundle as `1/model.py`.

Where Longtail is installed beside Triton, its own loop walks the trees: the same bits in a third of the time.
"""

import ctypes
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # provided by the backend's process
import xgboost

# The stub in the wheel was built before NumPy 2 and misreads the item size of its arrays: `as_numpy` repeats the first
# value and the Tensor constructor sends nothing. DLPack is right in both directions with NumPy 2, and crashes the stub
# with NumPy 1.
NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
_SET_NAME = ctypes.pythonapi.PyCapsule_SetName
_SET_NAME.argtypes = [ctypes.py_object, ctypes.c_char_p]
_USED = ctypes.c_char_p(b"used_dltensor")


class TritonPythonModel:
    """input__0 FP32 [N, F] -> output__0 FP32 [N, 1]."""

    booster: xgboost.Booster
    forest: Any
    lent: list[np.ndarray]

    def initialize(self, args: dict[str, str]) -> None:
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.booster = xgboost.Booster(model_file=os.path.join(folder, "xgboost.ubj"))
        # More threads than one make it slower as soon as two requests overlap.
        self.booster.set_param({"nthread": 1})
        self.forest = forest_of(self.booster)

    def execute(self, requests: list) -> list:
        # from_dlpack only borrows the memory, and it is read after this method has returned.
        self.lent = [self.score(read(pb_utils.get_input_tensor_by_name(r, "input__0"))) for r in requests]
        return [pb_utils.InferenceResponse([tensor("output__0", scores)]) for scores in self.lent]

    def score(self, features: np.ndarray) -> np.ndarray:
        if not len(features):
            return np.zeros((0, 1), np.float32)
        scores = self.booster.inplace_predict(features) if self.forest is None else self.forest.scores(features)
        return np.ascontiguousarray(scores, np.float32).reshape(-1, 1)


def forest_of(booster: xgboost.Booster) -> Any:
    """The booster's trees for Longtail's loop, None without Longtail or where XGBoost would say something else."""
    try:
        from longtail.ranking.forest import Forest
    except ImportError:
        return None
    return Forest.of(booster)


def read(given: Any) -> np.ndarray:
    """The values of an input tensor."""
    return np.from_dlpack(given) if NUMPY_2 else given.as_numpy()


def tensor(name: str, values: np.ndarray) -> Any:
    """An output tensor that borrows `values`: keep them until the next call."""
    if not NUMPY_2:
        return pb_utils.Tensor(name, values)
    capsule = values.__dlpack__()
    lent = pb_utils.Tensor.from_dlpack(name, capsule)
    # The stub marks the capsule used by a name that NumPy does not know: without this every response logs an error.
    _SET_NAME(capsule, _USED)
    return lent
