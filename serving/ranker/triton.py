"""The real Triton server out of the `nvidia-pytriton` wheel, on loopback, serving a bundle's ranker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from types import TracebackType

from longtail.engine.ranker_repository import INPUT, MODEL_NAME, OUTPUT
from longtail.errors import Unavailable
from serving.process import LOOPBACK, free_port, spawn, stop, tail, wait_until

SHARED_MEMORY = Path("/dev/shm")


class Triton:
    """One tritonserver process that serves `<repository>/ranker`; `start` returns after a real inference came back.

    `repository` is the folder that holds the model folder `ranker`: a bundle's `ranker/`. Other folders in it are
    not loaded. `state` takes the log and the assembled backend folder. `config_name` picks `configs/<name>.pbtxt`.
    """

    def __init__(
        self,
        repository: Path,
        state: Path,
        http_port: int | None = None,
        grpc_port: int | None = None,
        config_name: str | None = "cpu",
    ) -> None:
        self.repository = Path(repository).resolve()
        self.state = Path(state).resolve()
        self.http_port = http_port or free_port()
        self.grpc_port = grpc_port or free_port()
        self.config_name = config_name
        self.log = self.state / "triton.log"
        self.process: subprocess.Popen | None = None

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.grpc_port}"

    def launch(self) -> Triton:
        """Start the process without waiting.

        Raises:
            Unavailable: the wheel that carries tritonserver is not installed.
        """
        sweep_shared_memory()
        backends = backend_folder(self.state / "triton-backends")
        flags = [
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            f"--load-model={MODEL_NAME}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            f"--http-address={LOOPBACK}",
            f"--http-port={self.http_port}",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.grpc_port}",
            "--allow-metrics=false",
            "--exit-timeout-secs=3",
        ]
        if self.config_name:
            flags.append(f"--model-config-name={self.config_name}")
        self.process = spawn([wheel() / "bin" / "tritonserver", *flags], self.log, environment())
        return self

    def wait(self, timeout_s: float = 60.0) -> Triton:
        """Return when a real inference came back.

        Raises:
            Unavailable: the server ended or did not answer in time; the message carries the end of its log.
        """
        if self.process is None:
            raise Unavailable("Triton was not started: call launch() first")
        if not wait_until(self.answers, self.process, timeout_s):
            self.stop()
            raise Unavailable(f"Triton did not become ready, see {self.log}:\n{tail(self.log, 8)}")
        return self

    def start(self, timeout_s: float = 60.0) -> Triton:
        """`launch` and `wait`."""
        return self.launch().wait(timeout_s)

    def answers(self) -> bool:
        """Whether one row of zeros is scored now: Triton's own health stays 200 when its python stub is dead."""
        base = f"http://{LOOPBACK}:{self.http_port}/v2/models/{MODEL_NAME}"
        try:
            with urllib.request.urlopen(base, timeout=1) as reply:
                n_features = int(json.load(reply)["inputs"][0]["shape"][-1])
            body = {
                "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [1, n_features], "data": [0.0] * n_features}]
            }
            request = urllib.request.Request(f"{base}/infer", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=2) as reply:
                return json.load(reply)["outputs"][0]["name"] == OUTPUT
        except (OSError, ValueError, KeyError, IndexError):
            return False

    def reload(self) -> bool:
        """Unload and load the model: the only cure for a dead python stub. True when it answers again."""
        base = f"http://{LOOPBACK}:{self.http_port}/v2/repository/models/{MODEL_NAME}"
        try:
            for verb in ("unload", "load"):
                urllib.request.urlopen(urllib.request.Request(f"{base}/{verb}", b"{}"), timeout=20).close()
        except OSError:
            return False
        return self.answers()

    def stop(self) -> None:
        """End the process and its stubs, and remove their shared memory."""
        if self.process is not None:
            stop(self.process)
        for region in SHARED_MEMORY.glob(f"{self._shm_prefix}*"):
            region.unlink(missing_ok=True)

    @property
    def _shm_prefix(self) -> str:
        return f"longtail_{os.getpid()}_{self.grpc_port}_"

    def __enter__(self) -> Triton:
        return self if self.process else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def wheel() -> Path:
    """The tritonserver folder of the installed wheel.

    Raises:
        Unavailable: the wheel is not installed (it exists for Linux only).
    """
    try:
        found = Path(str(metadata.distribution("nvidia-pytriton").locate_file("pytriton"))) / "tritonserver"
    except metadata.PackageNotFoundError:
        found = Path("missing")
    if not (found / "bin" / "tritonserver").is_file():
        raise Unavailable(
            "tritonserver is not installed: pip install nvidia-pytriton (Linux), or point to a Triton server"
        )
    return found


def sweep_shared_memory() -> None:
    """Remove the regions of servers whose parent was killed before it could."""
    for region in SHARED_MEMORY.glob("longtail_*"):
        owner = region.name.split("_")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            region.unlink(missing_ok=True)


def backend_folder(out: Path) -> Path:
    """Assemble the python backend with the stub of this Python version, as tritonserver expects to find it."""
    target = out / "python"
    target.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel() / "python_backend_stubs" / version / "triton_python_backend_stub"
    for source in [*(wheel() / "backends" / "python").iterdir(), stub]:
        copy = target / source.name
        if source.is_file() and not (copy.is_file() and copy.stat().st_size == source.stat().st_size):
            beside = copy.with_name(f".{source.name}.{os.getpid()}")
            shutil.copy(source, beside)
            os.replace(beside, copy)
    return out


def environment() -> dict[str, str]:
    """What tritonserver's python stub needs to find this interpreter, its packages and its libraries."""
    libraries = [sysconfig.get_config_var("LIBDIR") or "", str(wheel().parents[1] / "nvidia_pytriton.libs")]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    return {
        "PATH": path,
        "LD_LIBRARY_PATH": ":".join(p for p in libraries if p),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # a bundle is immutable
    }
