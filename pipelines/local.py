"""Run a pipeline on this machine under `kfp.local`: steps as processes, finished steps reused."""

import contextlib
import hashlib
import io
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from longtail.errors import LongtailError

ROOT = Path(__file__).resolve().parents[1]
CODE = ("longtail", "components", "pipelines", "requirements.lock")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
REUSED = re.compile(r"Task '?([\w-]+)'? cache hit")
# What faiss logs while it looks for the build that fits the processor is no news.
NOISE = re.compile(r"\[KFP Executor|No module named 'faiss\.")
TRACEBACK = "Traceback (most recent call last):"
MISTAKE = re.compile(r"^\s*longtail\.errors\.\w+: (.*)$")


class StepFailed(LongtailError):
    """A step of the pipeline ended with an error."""

    exit_code = 1


class UserMistake(LongtailError):
    """A step of the pipeline refused its input."""


class Follower(io.TextIOBase):
    """Reads what kfp prints: writes it to a log and reports steps as they start, speak and end.

    `report(event, step, text)` is called with the events `started`, `reused`, `said`, `SUCCESS` and `FAILURE`.
    """

    def __init__(self, log: TextIO, report: Callable[[str, str, str], None]) -> None:
        self.log, self.report = log, report
        self.step, self.mistake = "", ""
        self._rest, self._quiet = "", True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(COLOUR.sub("", line))
        return len(text)

    def flush(self) -> None:
        self.log.flush()

    def _line(self, line: str) -> None:
        self.log.write(line + "\n")
        if found := STARTED.search(line):
            self.step, self._quiet = found[1], True
            self.report("started", self.step, "")
        elif found := REUSED.search(line):
            self.report("reused", found[1], "")
        elif found := FINISHED.search(line):
            self._quiet = True
            self.report(found[2], found[1], "")
        elif "Got executor_input:" in line or "Wrote executor output" in line:
            self._quiet = True
        elif self._quiet and line == "    }":  # the end of the inputs that kfp prints before the step speaks
            self._quiet = False
        elif line.strip() == TRACEBACK:  # the log has it; people get the one line that it ends with
            self._quiet = True
        elif found := MISTAKE.match(line):
            self.mistake = found[1]
        elif line.strip() and not self._quiet and not NOISE.search(line):
            self.report("said", self.step, line.strip())


def run(
    pipeline: Callable[..., Any],
    arguments: dict[str, Any],
    out: Path,
    report: Callable[[str, str, str], None],
    data: Sequence[Path] = (),
    reusable: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `pipeline` with steps as subprocesses of this Python; return its outputs. The log is `out/pipeline.log`.

    Steps that finished with the same inputs and the same code are reused, so that a run that was killed goes on where
    it was. What an unfinished step has written is removed. `data` are the files and folders that arguments point to:
    when they change, nothing is reused. That is why `reusable` steps, uncached on a cluster, may be reused here.

    Raises:
        UserMistake: a step refused its input; the message is the step's.
        StepFailed: a step broke.
    """
    from kfp import local

    out = out.resolve()
    log_path = out / "pipeline.log"
    steps = out / "steps"
    cache = out / "cache" / fingerprint(data)
    steps.mkdir(parents=True, exist_ok=True)
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(steps),
        enable_caching=True,
        cache_root=str(cache),
    )
    with log_path.open("w") as log:
        follower = Follower(log, report)
        try:
            with tidied(steps), logged_to(follower), cached(pipeline, reusable), contextlib.redirect_stdout(follower):
                outputs = pipeline(**arguments).outputs
        except RuntimeError as error:
            if follower.mistake:
                raise UserMistake(follower.mistake) from None
            raise StepFailed(f"step {follower.step} failed: read {log_path} ({COLOUR.sub('', str(error))})") from None
    _prune(steps, cache)
    return outputs


@contextlib.contextmanager
def cached(pipeline: Callable[..., Any], steps: Sequence[str]) -> Iterator[None]:
    """Let the given steps of a pipeline be reused, for as long as this lasts."""
    graph = pipeline.component_spec.implementation.graph  # `pipeline_spec` is a copy
    options = [graph.root.dag.tasks[step].caching_options for step in steps]
    before = [option.enable_cache for option in options]
    for option in options:
        option.enable_cache = True
    try:
        yield
    finally:
        for option, enabled in zip(options, before, strict=True):
            option.enable_cache = enabled


def _prune(steps: Path, cache: Path) -> None:
    """Keep the newest run, the cache in force, and the runs that it points into."""
    for folder in cache.parent.iterdir():
        if folder != cache:
            shutil.rmtree(folder)
    pointed = "".join(entry.read_text() for entry in cache.glob("*.json"))
    runs = sorted(steps.iterdir(), key=lambda folder: folder.stat().st_mtime)
    for folder in runs[:-1]:
        if f"/{folder.name}/" not in pointed:
            shutil.rmtree(folder)


@contextlib.contextmanager
def logged_to(stream: TextIO) -> Iterator[None]:
    """Let kfp's news of reused steps reach `stream`: kfp logs them outside the handler it sets up for the rest."""
    root, handler = logging.getLogger(), logging.StreamHandler(stream)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@contextlib.contextmanager
def tidied(steps: Path) -> Iterator[None]:
    """Remove the step folders without an output record: kfp writes that last, so such a step did not finish."""

    def tidy() -> None:
        for run_folder in steps.iterdir():
            for step in run_folder.iterdir():
                if step.is_dir() and not (step / "executor_output.json").is_file():
                    shutil.rmtree(step)
            if not any(run_folder.iterdir()):
                run_folder.rmdir()

    tidy()  # an earlier run may have been killed
    try:
        yield
    finally:
        tidy()


def fingerprint(data: Sequence[Path]) -> str:
    """What finished steps depend on besides their inputs: the code, the lock, and the data that arguments point to.

    kfp's own cache key knows neither the code that a component imports nor the content of a folder it is given.
    """
    digest = hashlib.sha256(sys.version.encode())
    for name in CODE:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    for path in data:
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            stat = file.stat()
            digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
