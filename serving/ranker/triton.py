"""The real Triton server out of the `nvidia-pytriton` wheel, serving the rankers of bundles."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from types import TracebackType

from longtail.engine.ranker_repository import INPUT, OUTPUT
from longtail.errors import Unavailable
from serving.process import LOOPBACK, free_port, spawn, stop, tail, wait_until

SHARED_MEMORY = Path("/dev/shm")
EXIT_S = 3
STUB = "triton_python_backend_stub"
# A model that loads on a busy machine takes half a minute; giving up earlier would take its files from under it.
CHANGE_S = 60.0
LOOK_S = 0.2


class Triton:
    """One tritonserver process that serves model folders; `start` returns after each answered a real inference.

    `repository` holds the model folders: a bundle's `ranker/`, or a folder with those of several bundles. What lies in
    it when the server starts is loaded; `load` and `unload` follow what changes later. `state` takes the log and the
    assembled backend folder. `config_name` picks `configs/<name>.pbtxt`. It listens on `host`; metrics are served where
    a port for them is given. Without `own_log` it says what it has to say on the streams of this process.
    """

    def __init__(
        self,
        repository: Path,
        state: Path,
        http_port: int | None = None,
        config_name: str | None = "cpu",
        host: str = LOOPBACK,
        metrics_port: int | None = None,
        own_log: bool = True,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.state = Path(state).resolve()
        self.http_port = http_port or free_port()
        self.config_name = config_name
        self.host, self.metrics_port = host, metrics_port
        self.log = self.state / "triton.log" if own_log else None
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        """Where inferences are asked for."""
        return f"{LOOPBACK}:{self.http_port}"

    @property
    def models(self) -> list[str]:
        """The names of the model folders in the repository now."""
        return sorted(p.name for p in self.repository.iterdir() if p.is_dir())

    def launch(self) -> Triton:
        """Start the process without waiting.

        Raises:
            Unavailable: the wheel that carries tritonserver is not installed.
        """
        sweep()
        backends = backend_folder(self.state / "triton-backends")
        flags = [
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            # A model's files say everything: to find out more, Triton would start each python stub twice.
            "--disable-auto-complete-config",
            *(f"--load-model={name}" for name in self.models),
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            f"--http-address={self.host}",
            f"--http-port={self.http_port}",
            "--allow-grpc=false",
            f"--exit-timeout-secs={EXIT_S}",
        ]
        if self.metrics_port:
            flags += [f"--metrics-address={self.host}", f"--metrics-port={self.metrics_port}"]
        else:
            flags.append("--allow-metrics=false")
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
            said = f", see {self.log}:\n{tail(self.log, 8)}" if self.log else ""
            raise Unavailable(f"Triton did not become ready{said}")
        return self

    def start(self, timeout_s: float = 60.0) -> Triton:
        """`launch` and `wait`."""
        return self.launch().wait(timeout_s)

    def answers(self, name: str | None = None) -> bool:
        """Whether a model (or each in the repository) scores a row of zeros now.

        Triton's own health stays 200 when a python stub is dead.
        """
        return all(self._answers(n) for n in ([name] if name else self.models))

    def load(self, name: str) -> bool:
        """Load a model folder of the repository, or load it again where it changed. True when it answers."""
        return self._change(name, "load") and self._answers(name)

    def unload(self, name: str) -> bool:
        """Let go of a model; what is being inferred is finished first."""
        return self._change(name, "unload")

    def reload(self, name: str) -> bool:
        """Unload and load a model: the only cure for a dead python stub. True when it answers again."""
        return self.unload(name) and self.load(name)

    def _answers(self, name: str) -> bool:
        base = f"http://{LOOPBACK}:{self.http_port}/v2/models/{name}"
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

    def _change(self, name: str, verb: str) -> bool:
        asked = http.client.HTTPConnection(LOOPBACK, self.http_port, timeout=CHANGE_S)
        deadline = time.monotonic() + CHANGE_S
        try:
            asked.request("POST", f"/v2/repository/models/{name}/{verb}", b"{}")
            # A stub that was started meanwhile holds this connection, too: it stays open when Triton dies, and a stub
            # that stood still can make Triton die.
            while not select.select([asked.sock], [], [], LOOK_S)[0]:
                if not self._lives() or time.monotonic() > deadline:
                    return False
            return asked.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asked.close()

    def _lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End the process and its stubs, and remove their shared memory."""
        if self.process is not None:
            stop(self.process)
        for region in SHARED_MEMORY.glob(f"{self._shm_prefix}*"):
            region.unlink(missing_ok=True)

    @property
    def _shm_prefix(self) -> str:
        return f"longtail_{os.getpid()}_{self.http_port}_"

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


def sweep() -> None:
    """End the stubs, and remove the shared memory, of servers whose parent was killed before it could.

    A stub that is still loading when its server ends waits for it for ever.
    """
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if words[0].endswith(STUB) and any(_orphaned(word) for word in words):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(command.parent.name), signal.SIGKILL)
    for region in SHARED_MEMORY.glob("longtail_*"):
        if _orphaned(region.name):
            region.unlink(missing_ok=True)


def _orphaned(name: str) -> bool:
    """Whether the process that this shared memory is named after is gone."""
    owner = re.match(r"longtail_(\d+)_", name)
    return owner is not None and not Path("/proc", owner[1]).exists()


def backend_folder(out: Path) -> Path:
    """Assemble the python backend with the stub of this Python version, as tritonserver expects to find it."""
    target = out / "python"
    target.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel() / "python_backend_stubs" / version / STUB
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
