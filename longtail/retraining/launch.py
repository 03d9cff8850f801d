"""Start a training and see it to its end: on this machine as `longtail train` does, or on Kubeflow Pipelines."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from longtail.errors import InvalidInput, LongtailError, Unavailable
from longtail.retraining.policy import Kubeflow, Local
from longtail.retraining.program import TIMED_OUT, last_line, run_program

SUBMITTED = re.compile(r"^run (\S+) \(", re.M)
DEPLOY = re.compile(r"^deploy: (.+)$", re.M)  # of the step that a `deploy` section of the platform file adds
RUNNING = 3  # exit code of `longtail pipeline status` while a run goes on
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a run: whether it ended well, the version that it registered and whether the gate made it champion,
    CPU seconds where they are known."""

    succeeded: bool
    told: str
    version: int | None = None
    champion: bool = False
    cpu_s: float | None = None


class StillRunning(LongtailError):
    """The run goes on elsewhere; a later pass looks again."""

    exit_code = 0


def launch(run: Local | Kubeflow, number: int, action: str, started: float, lock: int, note: Say) -> Outcome:
    """Do the run `number` of the ledger, from the start or from where it was cut off.

    `started`, seconds since 1970, is when it was started first; `lock` is a descriptor that the processes of the run
    inherit; `note` takes what a later pass must know of it.

    Raises:
        StillRunning, Unavailable: nothing is known of how it ended; ask again later.
    """
    # Runs, and what they register, are known again by it: numbers begin anew where a ledger is lost.
    name = f"longtail-retrain-{number} {datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M:%S.%f}"
    if run.where == "local":
        return _local(run, number, name, action, lock)
    return _kubeflow(run, number, name, action, lock, note)


def _local(run: Local, number: int, name: str, action: str, lock: int) -> Outcome:
    config = json.dumps(_config(run.config))
    words = {"--action": action, "--reader": run.reader, "--source": run.source, "--registry": run.registry,
             "--out": run.out, "--config": config, "--run": name}  # fmt: skip
    given = {"--surfaces": run.surfaces, "--impressions": run.impressions}
    words |= {flag: value for flag, value in given.items() if value}
    words |= {f"--{option.replace('_', '-')}": value for option, value in run.options.items()}
    log = run.out / f"retrain-{number}.log"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, said = run_program("pipelines.run_local", words, log, lock, run.timeout_hours)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if code:
        return Outcome(False, f"{last_line(said) or f'exit code {code}'} (log: {log})", cpu_s=cpu_s)
    return replace(_registered(run.registry, name), cpu_s=cpu_s)


def _kubeflow(run: Kubeflow, number: int, name: str, action: str, lock: int, note: Say) -> Outcome:
    log = Path(f"retrain-{number}.log")
    place = {f"--{n.replace('_', '-')}": v for n, v in {"experiment": "longtail-retrain", **run.options}.items()}
    # It was submitted already where the process that did so was killed before it could tell the id.
    existing = _found(name, place, lock)
    if existing is None:
        words = ["submit", "incremental" if action != "full" else "training", "--platform", str(run.platform)]
        params = dict(run.params) | {"run": name} | ({} if action == "full" else {"action": action})
        words += [word for item in params.items() for word in ("--param", "=".join(item))]
        words += ["--config", str(run.config)] if run.config else []
        code, said = _pipeline([*words, "--name", name], place, lock, 1.0)
        if code or not (submitted := SUBMITTED.search(said)):
            return Outcome(False, f"it could not be submitted: {last_line(said) or f'exit code {code}'}")
        existing = submitted[1]
        note(f"Kubeflow runs it as {existing}")
    code, said = _pipeline(["status", existing, "--wait"], place, lock, run.timeout_hours, log)
    if code == RUNNING:
        raise StillRunning(f"run {existing} goes on")
    if code == TIMED_OUT:
        return Outcome(False, f"run {existing} goes on after {run.timeout_hours:g} hours: stop it in Kubeflow")
    if code not in (0, 1):
        raise Unavailable(f"run {existing} was submitted, and nothing is known of it: {last_line(said)}")
    deployed = (DEPLOY.findall(said) or [""])[-1]  # the last is the error, if there was one
    if code and (not deployed or deployed.startswith("skipped")):
        return Outcome(False, f"run {existing} failed: {last_line(said)}")
    found = _registered(run.registry, name)
    if code:
        return replace(found, succeeded=False, told=f"run {existing}: {found.told}; not deployed: {deployed}")
    return replace(found, told=f"run {existing}: {found.told}{f'; deployed: {deployed}' if deployed else ''}")


def _found(name: str, place: dict[str, str], lock: int) -> str | None:
    """The id of the run of this name, None where it was never submitted.

    Raises:
        Unavailable: Kubeflow does not say.
    """
    code, said = _pipeline(["status", name, "--json"], place, lock, 0.1)
    if code == InvalidInput.exit_code and ("there is no experiment" in said or "has no run" in said):
        return None
    try:
        return str(json.loads(said[said.index("{") :])["run"])
    except ValueError:
        raise Unavailable(f"Kubeflow does not say whether it runs already: {last_line(said)}") from None


def _pipeline(
    words: Sequence[str], place: dict[str, str], lock: int, hours: float, log: Path | None = None
) -> tuple[int, str]:
    flags = [word for flag, value in place.items() for word in (flag, str(value))]
    return run_program("longtail.cli", ["pipeline", *words, *flags], log, lock, hours)


def _registered(registry: str, name: str) -> Outcome:
    """The version that the run of this name registered, and what the gate decided about it."""
    from longtail.registry import CHAMPION, Registry

    version = next((v for v in Registry(registry).versions() if v.run == name), None)
    if version is None:
        return Outcome(True, "it registered nothing new: the same data gave the same bundle")
    told = f"version {version.number}, {version.decision}"
    return Outcome(True, told, version.number, CHAMPION in version.aliases)


def _config(path: Path | None) -> dict:
    if path is None:
        return {}
    import yaml

    from longtail.training import TrainingConfig
    from longtail.yaml_model import load_yaml

    load_yaml(path, TrainingConfig)
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
