"""The ranker as a Triton model folder: one set of files that the CPU and the GPU server both read."""

from __future__ import annotations

import shutil
from pathlib import Path

from longtail.errors import InvalidInput

MODEL_NAME = "ranker"
BOOSTER_FILE = "xgboost.ubj"
INPUT, OUTPUT = "input__0", "output__0"

_TENSORS = """
max_batch_size: 32768
input [{{ name: "input__0" data_type: TYPE_FP32 dims: [ {n_features} ] }}]
output [{{ name: "output__0" data_type: TYPE_FP32 dims: [ 1 ] }}]
version_policy: {{ latest: {{ num_versions: 1 }} }}
"""

# FIL picks the GPU where there is one. Its output is the raw score of the trees, as `inplace_predict` returns for a
# ranking objective.
_FIL = """name: "ranker"
backend: "fil"
{tensors}instance_group [{{ kind: KIND_AUTO }}]
parameters [
  {{ key: "model_type" value: {{ string_value: "xgboost_ubj" }} }},
  {{ key: "is_classifier" value: {{ string_value: "false" }} }},
  {{ key: "output_class" value: {{ string_value: "false" }} }},
  {{ key: "predict_proba" value: {{ string_value: "false" }} }},
  {{ key: "storage_type" value: {{ string_value: "AUTO" }} }}
]
"""

_PYTHON = """name: "ranker"
backend: "python"
{tensors}instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


def write_repository(booster_file: Path, n_features: int, out: Path) -> Path:
    """Write the Triton model folder of a trained booster and return it.

    `out` becomes the model folder itself (its parent is Triton's `--model-repository`): `config.pbtxt` for the FIL
    backend, `configs/cpu.pbtxt` for the python backend (`--model-config-name=cpu`), both with `input__0` FP32 [N, F] ->
    `output__0` FP32 [N, 1].

    Raises:
        InvalidInput: the booster file is missing, or is not in XGBoost's `ubj` or `json` format.
    """
    booster_file, out = Path(booster_file), Path(out)
    if not booster_file.is_file() or booster_file.suffix not in (".ubj", ".json"):
        raise InvalidInput(f"{booster_file}: save the ranker with Booster.save_model to a .ubj or .json file first")
    (out / "1").mkdir(parents=True, exist_ok=True)
    (out / "configs").mkdir(exist_ok=True)
    if booster_file.suffix == ".ubj":
        shutil.copyfile(booster_file, out / "1" / BOOSTER_FILE)
    else:
        import xgboost

        xgboost.Booster(model_file=booster_file).save_model(out / "1" / BOOSTER_FILE)
    shutil.copyfile(Path(__file__).with_name("ranker_model.py"), out / "1" / "model.py")
    tensors = _TENSORS.format(n_features=int(n_features))
    (out / "config.pbtxt").write_text(_FIL.format(tensors=tensors))
    (out / "configs" / "cpu.pbtxt").write_text(_PYTHON.format(tensors=tensors))
    return out
