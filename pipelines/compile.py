"""Compile the pipelines to the YAML files that are committed: `python -m pipelines.compile [--check]`."""

import argparse
import difflib
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from pipelines.platform import Platform

PIPELINES = ("training", "incremental", "deploy", "monitoring")
FOLDER = Path(__file__).resolve().parent


def compiled(name: str, platform: Platform | None = None) -> str:
    """The YAML of one pipeline: `pipelines/<name>.py` holds a pipeline function of that name.

    Without a platform it is what is committed and what runs on this machine.
    """
    from kfp import compiler

    pipeline = getattr(import_module(f"pipelines.{name}"), name)
    if platform is not None:
        from pipelines.placing import placed

        pipeline = placed(pipeline, platform)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text()


def difference(name: str) -> str:
    """A unified diff from the committed YAML to the compiled one, empty where they agree."""
    path = FOLDER / f"{name}.yaml"
    committed = path.read_text() if path.is_file() else ""
    lines = difflib.unified_diff(
        committed.splitlines(), compiled(name).splitlines(), f"{name}.yaml", f"{name}.py compiled", lineterm="", n=2
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the YAML files, or with `--check` only tell whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 where a file differs")
    check = parser.parse_args(arguments).check
    stale = [name for name in PIPELINES if difference(name)]
    for name in stale:
        if check:
            print(
                f"{difference(name)}\npipelines/{name}.yaml differs from its source: run `make pipeline`",
                file=sys.stderr,
            )
        else:
            (FOLDER / f"{name}.yaml").write_text(compiled(name))
            print(f"wrote pipelines/{name}.yaml")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
