"""The rankers of the bundles that serve, in one Triton: loaded, watched by real inferences, healed, let go of."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

from longtail.engine.bundle import ranker_name
from longtail.engine.deployment import Deployment
from longtail.errors import LongtailError
from serving.ranker.triton import Triton

# A recommender that refused the new deployment still needs the old ranker, and requests end on what they began on.
KEEP_S = 60.0
TRY_S = 30.0
DEAD_AFTER = 2


class Models:
    """Links in Triton's repository to the model folders of bundles.

    Only what has been loaded once stays linked: a Triton that starts again loads all of them or does not start.
    `report` says in a line what was done.
    """

    def __init__(self, triton: Triton, report: Callable[[str], None]) -> None:
        self._triton, self._report = triton, report
        self._wanted: dict[str, Path] = {}
        self._since: dict[str, float] = {}
        self._pending: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def start(self, deployment: Deployment) -> None:
        """Link the rankers that Triton is to load when it starts.

        Raises:
            InvalidBundle: none of the bundles has a ranker; the error is the first one's.
        """
        shutil.rmtree(self._triton.repository, ignore_errors=True)
        self._triton.repository.mkdir(parents=True)
        errors = self._want(deployment)
        if not self._wanted:
            raise errors[0]
        for name in self._wanted:
            self._link(name)

    def take(self, deployment: Deployment) -> None:
        """Another deployment: `tend` loads what is not there yet."""
        for error in self._want(deployment):
            self._report(f"no ranker: {error}")
        there, deadline = self._triton.models, time.monotonic() + TRY_S
        self._pending = {name: deadline for name in self._wanted if name not in there}

    def tend(self) -> None:
        """Load what waits, and load again whatever answers no inference."""
        for name, deadline in list(self._pending.items()):
            self._link(name)
            if self._triton.load(name):
                del self._pending[name]
                continue
            self._unlink(name)
            if time.monotonic() > deadline or self._triton.answers():  # it is not Triton that is dead
                del self._pending[name]
                self._report(f"Triton cannot load {self._wanted.get(name, name)}")
        for name in self._triton.models:
            dead = not self._triton.answers(name)
            self._failures[name] = self._failures.get(name, 0) + 1 if dead else 0
            if self._failures[name] >= DEAD_AFTER:
                self._report(f"{name} answers no inference, loading it again")
                self._failures[name] = 0 if self._triton.reload(name) else -DEAD_AFTER

    def restarted(self) -> None:
        """Triton was started anew and needs a while before silence means death."""
        self._failures = dict.fromkeys(self._triton.models, -15)

    def drop(self, serving: Collection[Path]) -> None:
        """Let go of rankers that neither the deployment nor a bundle that serves (`serving`) has named for a while."""
        now = time.monotonic()
        needed = set(self._wanted)
        for folder in serving:
            try:
                needed.add(ranker_name(folder))
            except LongtailError:
                continue
        for name in self._triton.models:
            if name in needed:
                self._since[name] = now
            elif now - self._since.get(name, now) > KEEP_S:
                self._unlink(name)
                self._triton.unload(name)
            else:
                self._since.setdefault(name, now)

    def _want(self, deployment: Deployment) -> list[LongtailError]:
        wanted, errors = {}, []
        for folder in deployment.bundles:
            try:
                name = ranker_name(folder)
            except LongtailError as error:
                errors.append(error)
                continue
            wanted[name] = folder / "ranker" / name
        self._wanted = wanted
        return errors

    def _link(self, name: str) -> None:
        link = self._triton.repository / name
        if not link.is_dir():
            link.unlink(missing_ok=True)  # it may lead to a bundle that is gone
            link.symlink_to(self._wanted[name])

    def _unlink(self, name: str) -> None:
        (self._triton.repository / name).unlink(missing_ok=True)
