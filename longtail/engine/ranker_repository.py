"""The ranker as a Triton model folder: one set of files that the CPU and the GPU server both read."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from longtail.errors import InvalidInput

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
_FIL = """backend: "fil"
{tensors}instance_group [{{ kind: KIND_AUTO }}]
parameters [
  {{ key: "model_type" value: {{ string_value: "xgboost_ubj" }} }},
  {{ key: "is_classifier" value: {{ string_value: "false" }} }},
  {{ key: "output_class" value: {{ string_value: "false" }} }},
  {{ key: "predict_proba" value: {{ string_value: "false" }} }},
  {{ key: "storage_type" value: {{ string_value: "AUTO" }} }}
]
"""

_PYTHON = """backend: "python"
{tensors}instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


def write_repository(booster_file: Path, n_features: int, out: Path) -> Path:
    """Write a trained booster into the Triton model repository `out` and return its model folder.

    The folder is named after its contents, so that one Triton holds the rankers of several bundles: `config.pbtxt` for
    the FIL backend, `configs/cpu.pbtxt` for the python backend (`--model-config-name=cpu`), both with `input__0` FP32
    [N, F] -> `output__0` FP32 [N, 1]. They carry no name: Triton then takes the folder's.

    Raises:
        InvalidInput: the booster file is missing, or is not in XGBoost's `ubj` or `json` format.
    """
    booster_file, out = Path(booster_file), Path(out)
    if not booster_file.is_file() or booster_file.suffix not in (".ubj", ".json"):
        raise InvalidInput(f"{booster_file}: save the ranker with Booster.save_model to a .ubj or .json file first")
    beside = out / f".{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "1").mkdir(parents=True)
    (beside / "configs").mkdir()
    written = beside / "1" / BOOSTER_FILE
    if booster_file.suffix == ".ubj":
        shutil.copyfile(booster_file, written)
    else:
        import xgboost

        xgboost.Booster(model_file=booster_file).save_model(written)
    shutil.copyfile(Path(__file__).with_name("ranker_model.py"), beside / "1" / "model.py")
    tensors = _TENSORS.format(n_features=int(n_features))
    (beside / "config.pbtxt").write_text(_FIL.format(tensors=tensors))
    (beside / "configs" / "cpu.pbtxt").write_text(_PYTHON.format(tensors=tensors))
    digest = hashlib.sha256()
    for path in sorted(p for p in beside.rglob("*") if p.is_file()):
        digest.update(path.read_bytes())
    folder = out / f"ranker-{digest.hexdigest()[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(beside, folder)
    return folder
