"""Where and how the steps run on a cluster: a YAML file whose mistakes are answered with line and key."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from longtail.yaml_model import load_yaml

STEPS = sorted(path.parent.name for path in Path(__file__).resolve().parents[1].glob("components/*/component.py"))
DISTRIBUTED = "train_two_tower"  # the step that can train on several nodes

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Folder = Annotated[str, Field(pattern=r"^/[^:]+$")]
Image = Annotated[str, Field(pattern=r"^[\w.:/@-]+$")]
Cpu = Annotated[str, Field(pattern=r"^(\d+(\.\d+)?|\d+m)$")]
Memory = Annotated[str, Field(pattern=r"^\d+(\.\d+)?([EPTGMK]i?|k)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class CpuShare(_Strict):
    """Cores, such as `2` or `500m`."""

    request: Cpu | None = None
    limit: Cpu | None = None


class MemoryShare(_Strict):
    """Bytes with a unit, such as `4Gi`."""

    request: Memory | None = None
    limit: Memory | None = None


class Accelerator(_Strict):
    """So many devices of the resource that the cluster's device plugin announces."""

    type: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    limit: int = Field(default=1, ge=1)


class Toleration(_Strict):
    """A taint that the step's pod does not mind; without a key it is every taint."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value")
        if self.operator == "Equal" and not self.key:
            raise ValueError("without a key the operator must be Exists")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("seconds need the effect NoExecute")
        return self


class Volume(_Strict):
    """A PersistentVolumeClaim, mounted at a folder."""

    claim: Name
    mount: Folder
    sub_path: str = ""


class Secret(_Strict):
    """A Secret whose keys become variables, or files in a folder, or both."""

    name: Name
    env: dict[str, Variable] = {}
    mount: Folder | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _used(self) -> Secret:
        if not self.env and self.mount is None:
            raise ValueError("say what becomes of it: `env: {key: VARIABLE}` or `mount: /folder`")
        return self


class Retries(_Strict):
    """A failed step is tried `count` times more, after `wait_s`, then `factor` times as long, at most `longest_s`."""

    count: int = Field(ge=1, le=20)
    wait_s: int = Field(default=30, ge=0)
    factor: float = Field(default=2.0, ge=1)
    longest_s: int = Field(default=600, ge=0)


class TrainJob(_Strict):
    """Training on several nodes at once, by Kubeflow Trainer: `processes` a node (one for each of its GPUs).

    `folder` lies on a volume of the step that pods on all nodes may write.
    """

    nodes: int = Field(ge=1)
    processes: int = Field(default=1, ge=1)
    folder: Folder


class Step(_Strict):
    """What one step's pod gets. A key that a step gives takes the place of the default's as a whole."""

    image: Image | None = None
    cpu: CpuShare = CpuShare()
    memory: MemoryShare = MemoryShare()
    accelerator: Accelerator | None = None
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    shm: Memory | None = None
    volumes: list[Volume] = []
    secrets: list[Secret] = []
    env: dict[Variable, str] = {}
    retries: Retries | None = None
    timeout_s: int | None = Field(default=None, ge=1)
    train_job: TrainJob | None = None


class Deploy(_Strict):
    """With this section a training run ends by putting the champion in front of people (see `components/deploy`)."""

    namespace: Name
    release: Name = "longtail"
    storage: str = ""
    url: str = ""
    timeout_s: int = Field(default=1800, ge=1)


class Platform(_Strict):
    """Image and run-wide settings, what every step gets (`defaults`), and what single `steps` get instead."""

    image: Image
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[Name] = []
    service_account: Name | None = None
    pipeline_root: str | None = None
    defaults: Step = Step()
    steps: dict[str, Step] = {}
    deploy: Deploy | None = None

    @field_validator("steps", mode="before")
    @classmethod
    def _known(cls, steps: Any) -> Any:
        unknown = [name for name in steps if name not in STEPS] if isinstance(steps, dict) else []
        if unknown:
            raise ValueError(f"no step is called {', '.join(map(str, unknown))}: choose from {', '.join(STEPS)}")
        return steps

    @model_validator(mode="after")
    def _train_jobs(self) -> Platform:
        for name in ("defaults", *self.steps):
            job = self.steps.get(name, self.defaults).train_job
            if job is None:
                continue
            if name != DISTRIBUTED:
                raise ValueError(f"train_job: only {DISTRIBUTED} can have one, not {name}")
            if not any(PurePosixPath(job.folder).is_relative_to(v.mount) for v in self.of(name).volumes):
                raise ValueError(f"steps.{name}.train_job.folder: name a folder on one of the step's volumes")
        return self

    @staticmethod
    def load(path: Path | str) -> Platform:
        """Read a platform file.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        return load_yaml(path, Platform)

    def of(self, step: str) -> Step:
        """What the step of this name (`train_ranker` or `train-ranker`) gets; its image is always set."""
        own = self.steps.get(step.replace("-", "_"), Step())
        given = {name: getattr(own, name) for name in own.model_fields_set}
        merged = self.defaults.model_copy(update=given)
        return merged if merged.image else merged.model_copy(update={"image": self.image})

    def keeps(self, step: str, variable: str) -> bool:
        """Whether a variable of a step names a file below one of its volumes."""
        wanted = self.of(step)
        file = PurePosixPath(wanted.env.get(variable, ""))
        return any(file.is_relative_to(volume.mount) for volume in wanted.volumes)

    def mounts(self) -> set[str]:
        """Every folder that some step sees."""
        steps = [self.defaults, *self.steps.values()]
        found = {volume.mount for step in steps for volume in step.volumes}
        return found | {secret.mount for step in steps for secret in step.secrets if secret.mount}
