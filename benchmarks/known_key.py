"""The key of the pseudonyms of simulated shops: a random one orders people anew, and so trains otherwise, each time."""

from pathlib import Path


def known_key(folder: Path) -> Path:
    """A key file in `folder`, the same in every run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "key"
    path.write_text("nobody lives in a simulated shop")
    path.chmod(0o600)
    return path
