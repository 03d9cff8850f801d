"""A day of what the servers wrote, checked."""

from __future__ import annotations

import shutil
from pathlib import Path

from longtail.steps.folders import Figures, fresh, say


def monitor(log: str, state: str, registry: str, day: str, watch: str, out: Path) -> Figures:
    """Check a day of what the champion's servers wrote; `state` keeps the history, `out` gets the report."""
    from longtail.monitoring.config import Watch
    from longtail.monitoring.log import too_early, yesterday
    from longtail.monitoring.report import sentence
    from longtail.monitoring.run import monitor as run
    from longtail.registry import Registry

    if not day and (early := too_early(Path(log), yesterday())):
        with fresh(out):
            say(early)
        return {"sentence": early, "critical": [], "fired": 0}
    bundle = Registry(registry).resolve("champion")
    signals = run(log, bundle, state, [day or yesterday()], Watch.load(watch or None))
    with fresh(out) as folder:
        for name in ("report.html", "report.json", "monitor.prom"):
            shutil.copyfile(Path(state) / name, folder / name)
    say(sentence(signals))
    critical = sorted({s.name for s in signals if s.fired and s.severity == "critical"})
    return {"sentence": sentence(signals), "critical": critical, "fired": sum(s.fired for s in signals)}
