"""What changed in the surfaces and their rules, as the audit log tells it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtail.governance.audit import AuditLog

MOST = 50  # changed keys that an entry names
LONGEST = 200  # characters of a value in an entry


def record_rules(
    log: AuditLog, path: Path, content: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> bool:
    """Record that the surfaces of `path` with this content are in force, unless the newest such entry says so already.

    Both contents are those of the validated file. Without `before` (a server that starts) the entry says which content
    took over and not what changed. Returns whether an entry was made.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
    last = None
    for entry in log.entries():
        if entry.action == "rules" and entry.about.get("file") == str(path):
            last = entry.about.get("content")
    if last == digest:
        return False
    about: dict[str, Any] = {"file": str(path), "content": digest, "content_before": last}
    if before is not None:
        changed = changes(before, content)
        about["changed"] = dict(list(changed.items())[:MOST])
        if len(changed) > MOST:
            about["more"] = len(changed) - MOST
    log.append("rules", about)
    return True


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Dotted key -> [value before, value after] as JSON text, None where there was none; in the order of the keys."""
    old, new = _flat(before), _flat(after)
    return {key: [old.get(key), new.get(key)] for key in sorted(old | new) if old.get(key) != new.get(key)}


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return {prefix: text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"}
