"""Versions of bundles in MLflow: register, list, promote, roll back, resolve."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import numpy as np

from longtail.durable import locked
from longtail.errors import InvalidBundle, InvalidInput
from longtail.evaluation.gate import Finding, GateConfig, beats, not_worse
from longtail.governance.audit import AuditLog
from longtail.registry.version import HELD, MAX_TAG, Version, figures_tag, flatten, metric_name, read_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

MODEL = "longtail"
CHAMPION = "champion"
CHALLENGER = "challenger"
HISTORY_TAG = "champions"  # versions that were champion, oldest first: what a rollback goes back along
CASES = Path("evaluation/cases.npy")
MAX_PARAM = 6000
LOCK = "roles.lock"


@dataclass(frozen=True)
class Registry:
    """Versions in a local folder (SQLite and files), or on an MLflow server when `location` is an http(s) address."""

    location: Path | str

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client on this registry; the first use of a folder makes its database."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        if not self.remote:
            Path(self.location).mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def uri(self) -> str:
        """The tracking URI to open with `mlflow ui --backend-store-uri`."""
        if self.remote:
            return str(self.location)
        # MLflow resolves a relative path against whoever reads it.
        return f"sqlite:///{Path(self.location).resolve()}/mlflow.db"

    @property
    def remote(self) -> bool:
        """Whether the registry is a server."""
        return str(self.location).startswith(("http://", "https://"))

    @property
    def audit(self) -> AuditLog:
        """Where every promotion and rollback is recorded."""
        return AuditLog.of(self.location)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever registered in this folder; looking makes no database."""
        return not self.remote and not (Path(self.location) / "mlflow.db").is_file()

    def register(
        self,
        bundle: Path,
        figures: Mapping[str, Any],
        params: Mapping[str, Any],
        model_card: str,
        data_fingerprint: str,
        *,
        metric: str = "ndcg@10",
        margin: float = 0.0,
        cases: np.ndarray | None = None,
        unseen: bool = True,
        held: str = "",
        findings: Sequence[Finding] = (),
        against: np.ndarray | None = None,
        gate: GateConfig | None = None,
        kept: Mapping[str, Sequence[Path]] | None = None,
        run: str = "",
    ) -> Version:
        """Store a bundle as the next version and let it take the role it earned.

        It becomes champion when there is none or its `metric` exceeds the champion's by `margin`; else challenger.
        Where both were judged on the same cases, the lead must also be more than chance. Figures of cases that the
        system had learned from beat nobody. Registering the same bundle again returns the version it already has.

        Args:
            bundle: folder with `manifest.json`.
            figures: results of the evaluation, may be nested; numbers become MLflow metrics.
            params: what the bundle was trained with.
            model_card: Markdown.
            data_fingerprint: identifies the data it was trained on.
            metric: dotted name of the figure that decides.
            margin: lead that is needed, in units of the metric.
            cases: `metric` of each evaluated request, float [B]; versions with the same `data_fingerprint` are taken to
                be judged on the same requests.
            unseen: False where the figures are of cases that the system had learned from.
            held: why it must get no traffic; it then takes no role unless it is promoted by hand.
            findings: what else the gate looked at; one that did not pass holds it back, or keeps it from the lead.
            against: what the champion reaches on the same requests as `cases`, float [B], where that was worked out.
            gate: how the two are compared; by default the new one must be better.
            kept: files by the name of a folder that are stored with the version, beside the bundle (see `kept`).
            run: name of the run that registers it, by which that run finds its version again.

        Raises:
            InvalidBundle: the folder holds no readable manifest.
            InvalidInput: `figures` has no such metric.
        """
        manifest = read_manifest(bundle)
        numbers = {k: float(v) for k, v in flatten(figures).items() if isinstance(v, int | float) and v == v}
        if metric not in numbers:
            raise InvalidInput(f"the figures have no {metric!r}: choose one of {', '.join(sorted(numbers)) or 'none'}")
        digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
        known = self._with_digest(digest)
        if known is None:
            run_id, source = self._log_run(bundle, manifest, numbers, params, model_card, cases, kept or {})
            tags = {
                "digest": digest,
                "bundle_version": str(manifest.get("version", "")),
                "metric": metric,
                "data_fingerprint": data_fingerprint,
                "figures": figures_tag(numbers, metric),
                "unseen": "yes" if unseen else "no",
                "run": run,
            }
            self._ensure_model()
            known = self.client.create_model_version(MODEL, source, run_id, tags=tags, description=model_card)
        if "decision" not in known.tags:  # also after a kill between the two writes
            if held:
                findings = [*findings, Finding("off_policy", False, held)]
            tag = json.dumps([asdict(f) for f in findings])
            while len(tag) > MAX_TAG and findings:
                findings = findings[:-1]
                tag = json.dumps([asdict(f) for f in findings])
            self.client.set_model_version_tag(MODEL, str(known.version), "checks", tag)
            with self._alone():
                self._decide(Version.of(known, {}), margin, findings, cases, against, gate or GateConfig())
        return self.get(int(known.version))

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        if self.empty:
            return []
        found = self.client.search_model_versions(f"name='{MODEL}'", max_results=10_000)
        aliases = self._aliases()
        return sorted((Version.of(v, aliases) for v in found), key=lambda v: -v.number)

    def get(self, reference: str | int) -> Version:
        """The version of an alias, a number or a bundle version.

        Raises:
            InvalidInput: there is none.
        """
        wanted = str(reference).removeprefix("v")
        every = self.versions()
        for version in every:
            if wanted in (str(version.number), version.bundle_version, *version.aliases):
                return version
        have = ", ".join(str(v.number) for v in reversed(every)) or "none yet: run `longtail train` first"
        raise InvalidInput(f"no version or alias {reference!r} in the registry {self.location} (versions: {have})")

    def champion(self) -> Version | None:
        """The version that serves, None before the first one."""
        return next((v for v in self.versions() if CHAMPION in v.aliases), None)

    def promote(self, reference: str | int) -> Version:
        """Make a version champion, whatever its figures; the one it replaces can be rolled back to."""
        with self._alone():
            version = self.get(reference)
            if CHAMPION in version.aliases:
                return version
            about = {"registry": str(self.location), "version": version.number, "bundle": version.bundle_version,
                     "instead_of": self._serving(), "decision": version.decision}  # fmt: skip
            with self.audit.recording("override" if version.held else "promotion", about):
                self._crown(version.number, [*self._history(), version.number])
            return self.get(version.number)

    def rollback(self) -> Version:
        """Make the previous champion champion again; the one that goes becomes challenger.

        Raises:
            InvalidInput: there was no champion before this one.
        """
        with self._alone():
            history = self._history()
            if len(history) < 2:
                raise InvalidInput("nothing to roll back to: no version was champion before this one")
            *rest, gone = history
            about = {"registry": str(self.location), "version": rest[-1], "instead_of": gone}
            with self.audit.recording("rollback", about):
                self._crown(rest[-1], rest)
                self.client.set_registered_model_alias(MODEL, CHALLENGER, str(gone))
            return self.get(rest[-1])

    def resolve(self, reference: str | int) -> Path:
        """The local folder of a version's bundle, fetched from the server where it is not local."""
        source = self.get(reference).source
        parsed = urlparse(source)
        if parsed.scheme in ("", "file"):
            path = Path(unquote(parsed.path))
            if not (path / "manifest.json").is_file():
                raise InvalidBundle(f"the bundle of {reference} is no longer at {path}: register it again")
            return path
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=source, tracking_uri=self.uri))

    def kept(self, reference: str | int, name: str) -> Path | None:
        """The local folder of what was kept with a version under that name, None where nothing was."""
        run_id = self.get(reference).run_id
        if not self.client.list_artifacts(run_id, name):
            return None
        return Path(self.client.download_artifacts(run_id, name))

    def storage_uri(self, reference: str | int) -> str:
        """Where the files of a version's bundle lie, as the tracking server names the place.

        It is `mlflow-artifacts:/...` where that server hands artifacts through, else what it was started with, such as
        `s3://...`, or a `file://` address.
        """
        return self.client.get_model_version_download_uri(MODEL, str(self.get(reference).number))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time reads and moves the roles.

        MLflow's API has no lock and no write that depends on what is there, so those of a server are moved one at a
        time by all who keep one record of it, beside which the lock lies.
        """
        if self.empty:
            yield
            return
        folder = self.audit.path.parent if self.remote else Path(self.location)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            yield

    def _log_run(
        self,
        bundle: Path,
        manifest: Mapping[str, Any],
        numbers: Mapping[str, float],
        params: Mapping[str, Any],
        card: str,
        cases: np.ndarray | None,
        kept: Mapping[str, Sequence[Path]],
    ) -> tuple[str, str]:
        from mlflow.entities import Metric, Param

        run = self.client.create_run(self._experiment(), run_name=str(manifest.get("version", bundle.name)))
        run_id, now = run.info.run_id, run.info.start_time
        try:
            metrics = [Metric(metric_name(k), v, now, 0) for k, v in numbers.items()]
            settings = [Param(metric_name(k), str(v)[:MAX_PARAM]) for k, v in flatten(params).items()]
            for start in range(0, max(len(metrics), len(settings)), 100):
                end = start + 100
                self.client.log_batch(run_id, metrics[start:end], settings[start:end])
            self.client.log_text(run_id, card, "model_card.md")
            self.client.log_dict(run_id, dict(numbers), "figures.json")
            if cases is not None:
                with tempfile.TemporaryDirectory() as folder:
                    np.save(Path(folder) / CASES.name, np.asarray(cases, np.float64))
                    self.client.log_artifacts(run_id, folder, str(CASES.parent))
            for name, files in kept.items():
                for file in files:
                    self.client.log_artifact(run_id, str(file), name)
            self.client.log_artifacts(run_id, str(bundle), "bundle")
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id, "FINISHED")
        return run_id, f"{run.info.artifact_uri}/bundle"

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(MODEL)
        if found is not None:
            return str(found.experiment_id)
        place = None
        if not self.remote:
            place = (Path(self.location).resolve() / "artifacts").as_uri()
        return str(self.client.create_experiment(MODEL, artifact_location=place))

    def _ensure_model(self) -> None:
        if self._model() is None:
            self.client.create_registered_model(MODEL, description="Two-stage recommender bundles of Longtail.")

    def _decide(
        self, version: Version, margin: float, findings: Sequence[Finding], cases: np.ndarray | None,
        against: np.ndarray | None, gate: GateConfig,
    ) -> None:  # fmt: skip
        held = "; ".join(f.reason for f in findings if f.holds and not f.passed)
        if held:
            self.client.set_model_version_tag(MODEL, str(version.number), "decision", f"{HELD}: {held}"[:MAX_TAG])
            return
        if self._serving() == version.number:  # a kill came between its crown and this
            why = "it won, and was cut off before it could say why: see `longtail audit list`"
            self.client.set_model_version_tag(MODEL, str(version.number), "decision", f"{CHAMPION}: {why}")
            return
        wins, why = self._compare(version, self.champion(), margin, cases, against, gate)
        if wins and (doubts := "; ".join(f.reason for f in findings if not f.passed)):
            wins, why = False, f"{why}; but {doubts}"
        if wins:
            about = {"registry": str(self.location), "version": version.number, "bundle": version.bundle_version,
                     "instead_of": self._serving(), "because": why}  # fmt: skip
            with self.audit.recording("promotion", about, who="the gate"):
                self._crown(version.number, [*self._history(), version.number])
        else:
            self.client.set_registered_model_alias(MODEL, CHALLENGER, str(version.number))
        role = CHAMPION if wins else CHALLENGER
        self.client.set_model_version_tag(MODEL, str(version.number), "decision", f"{role}: {why}")

    def _compare(
        self, version: Version, champion: Version | None, margin: float, cases: np.ndarray | None,
        against: np.ndarray | None, gate: GateConfig,
    ) -> tuple[bool, str]:  # fmt: skip
        flattered = f"{version.metric} {version.value:.4f} is of a window that it had learned from and flatters it"
        if champion is None:
            return True, "the first version" + ("" if version.unseen else f"; its {flattered}: import a longer log")
        if not version.unseen:
            return False, (
                f"its {flattered}, so it beats nobody: import a longer log, or promote it by hand over version "
                f"{champion.number}"
            )
        if cases is not None and against is not None:
            return _paired(version, champion, cases, against, margin, gate)
        wins, why = self._compare_figures(version, champion, margin)
        if not champion.unseen:
            why += f"; the figure of version {champion.number} is of a window that it had learned from and flatters it"
        return wins, why

    def _compare_figures(self, version: Version, champion: Version, margin: float) -> tuple[bool, str]:
        ours, theirs = self._cases(version), self._cases(champion)
        same = version.data_fingerprint == champion.data_fingerprint and version.metric == champion.metric
        if same and ours is not None and theirs is not None and len(ours) == len(theirs):
            return _paired(version, champion, ours, theirs, margin, GateConfig())
        before = champion.figures.get(version.metric, float("-inf"))
        wins = version.value > before and version.value >= before + margin
        return wins, f"{version.metric} {version.value:.4f} against {before:.4f} of version {champion.number}"

    def _cases(self, version: Version) -> np.ndarray | None:
        """The per-case results that were kept with a version, float [B]."""
        kept = self.client.list_artifacts(version.run_id, str(CASES.parent))
        if not any(Path(artifact.path) == CASES for artifact in kept):
            return None
        with tempfile.TemporaryDirectory() as folder:
            return np.load(self.client.download_artifacts(version.run_id, str(CASES), folder))

    def _crown(self, number: int, history: list[int]) -> None:
        """Move `champion`; the history is written first, so that a kill in between loses no way back.

        What a kill left in the history already stands there once: a way back must lead elsewhere.
        """
        history = [n for n, after in zip(history, [*history[1:], None], strict=True) if n != after]
        self.client.set_registered_model_tag(MODEL, HISTORY_TAG, json.dumps(history[-100:]))
        self.client.set_registered_model_alias(MODEL, CHAMPION, str(number))
        if self._aliases().get(CHALLENGER) == number:
            self.client.delete_registered_model_alias(MODEL, CHALLENGER)

    def _serving(self) -> int | None:
        return self._aliases().get(CHAMPION)

    def _history(self) -> list[int]:
        model = self._model()
        return [int(n) for n in json.loads(model.tags.get(HISTORY_TAG, "[]"))] if model else []

    def _aliases(self) -> dict[str, int]:
        model = self._model()
        return {name: int(number) for name, number in model.aliases.items()} if model else {}

    def _model(self) -> RegisteredModel | None:
        if self.empty:
            return None
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _with_digest(self, digest: str) -> ModelVersion | None:
        found = self.client.search_model_versions(f"name='{MODEL}'", max_results=10_000)
        return next((v for v in found if v.tags.get("digest") == digest), None)


def _paired(
    version: Version, champion: Version, ours: np.ndarray, theirs: np.ndarray, margin: float, gate: GateConfig
) -> tuple[bool, str]:
    if gate.promote == "not_worse":
        verdict = not_worse(ours, theirs, gate.tolerance, version.metric)
    else:
        verdict = beats(ours, theirs, margin, version.metric)
    return verdict.champion, f"against version {champion.number}, {verdict.reason}"


def register(
    bundle: Path,
    figures: Mapping[str, Any],
    params: Mapping[str, Any],
    model_card: str,
    data_fingerprint: str,
    tracking_folder: Path | str,
    *,
    metric: str = "ndcg@10",
    margin: float = 0.0,
    cases: np.ndarray | None = None,
    unseen: bool = True,
) -> Version:
    """`Registry(tracking_folder).register(...)`."""
    return Registry(tracking_folder).register(
        bundle, figures, params, model_card, data_fingerprint, metric=metric, margin=margin, cases=cases, unseen=unseen
    )
