"""How far a run on Kubeflow Pipelines is, by step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

SUCCEEDED, FAILED, RUNNING = 0, 1, 3
ENDED = {"SUCCEEDED": SUCCEEDED, "SKIPPED": SUCCEEDED, "FAILED": FAILED, "CANCELED": FAILED}


@dataclass(frozen=True)
class StepState:
    """One step: `waiting` until it began, then Kubeflow's own word in lower case."""

    name: str
    state: str
    took: str = ""
    error: str = ""


@dataclass(frozen=True)
class RunState:
    """One run: `state` is Kubeflow's own word."""

    run: str
    name: str
    state: str
    error: str
    steps: tuple[StepState, ...]

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ENDED

    @property
    def exit_code(self) -> int:
        """0 after success, 1 after failure or a stop by hand, 3 while it runs."""
        return ENDED.get(self.state, RUNNING)

    @staticmethod
    def of(run: Any) -> RunState:
        """Read the server's answer; steps come in the order in which they began, those that wait come last."""
        details = list((run.run_details.task_details if run.run_details else None) or [])
        tasks = list(((run.pipeline_spec or {}).get("pipeline_spec") or run.pipeline_spec or {})
                     .get("root", {}).get("dag", {}).get("tasks", {}))  # fmt: skip
        newest: dict[str, Any] = {}
        for task in sorted(details, key=_began):
            newest[task.display_name] = task  # a step that was tried again is there once more
        if not tasks:  # the server knows the pipeline by its version only
            tasks = [n for n in newest if n not in ("root", "executor") and not n.endswith("-driver")]
        steps = sorted(
            tasks, key=lambda name: _began(newest[name]) if name in newest else datetime.max.replace(tzinfo=UTC)
        )
        return RunState(
            run.run_id, run.display_name or "", run.state or "PENDING", _message(run.error),
            tuple(_step(name, newest.get(name)) for name in steps),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """A table of the steps and how the run stands."""
        width = max((len(step.name) for step in self.steps), default=0)
        return [f"{step.name:<{width}}  {step.state:<10} {step.took}".rstrip() for step in self.steps] + self.summary()

    def summary(self) -> list[str]:
        """How the run stands, and what broke."""
        broken = [f"{step.name}: {step.error}" for step in self.steps if step.error]
        said = broken or ([self.error] if self.error else [])
        return [*said, f"run {self.run} ({self.name}): {self.state.lower()}"]

    def as_dict(self) -> dict[str, Any]:
        """For other programs."""
        return asdict(self)


def _step(name: str, task: Any) -> StepState:
    if task is None or task.state is None:
        return StepState(name, "waiting")
    took = ""
    if task.start_time and task.end_time and task.end_time.year > 1970:  # what has not ended ends in 1970
        took = f"{(task.end_time - task.start_time).total_seconds():.0f} s"
    return StepState(name, task.state.lower(), took, _message(task.error))


def _began(task: Any) -> datetime:
    return task.start_time or task.create_time or datetime.min.replace(tzinfo=UTC)


def _message(error: Any) -> str:
    return " ".join(str(error.message or f"code {error.code}").split()) if error is not None else ""
