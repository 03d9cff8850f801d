"""The command line as a person meets it: run as a program."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longtail.cli.registry import listed
from longtail.registry import Version, register
from pipelines.run_local import outcome


def longtail(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Run `longtail` as a program of its own."""
    command = [sys.executable, "-c", "from longtail.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_answers_at_once_and_names_every_command():
    began = time.monotonic()
    done = longtail("--help")
    assert time.monotonic() - began < 3  # a second on an idle machine: nothing heavy is imported
    assert done.returncode == 0
    for command in ("import", "simulate", "train", "evaluate", "registry", "serve", "recommend", "benchmark"):
        assert command in done.stdout


def test_help_imports_no_heavy_library():
    heavy = ("numpy", "pandas", "torch", "mlflow", "kfp", "kserve", "feast", "xgboost", "faiss", "duckdb")
    code = (
        "import sys\n"
        "from longtail.cli import main\n"
        "sys.argv = ['longtail', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    for name, ndcg in (("first", 0.2), ("worse", 0.1)):
        bundle = root / name
        bundle.mkdir()
        (bundle / "manifest.json").write_text(json.dumps({"format": 1, "version": name}))
        register(bundle, {"ndcg@10": ndcg}, {}, "", "f00d", root / "mlflow")
    return root / "mlflow"


def test_registry_lists_promotes_and_rolls_back(registry):
    listed = json.loads(longtail("registry", "list", "--json", "--registry", registry).stdout)
    assert [(v["number"], v["aliases"]) for v in listed] == [(2, ["challenger"]), (1, ["champion"])]
    heading, newest, first = longtail("registry", "list", "--registry", registry).stdout.splitlines()
    assert heading.startswith("version") and newest.split()[:4] == ["2", "challenger", "ndcg@10", "0.1000"]
    assert first.endswith(f"f00d  {listed[1]['decision']}"), "what a pipe gets is not cut"
    assert longtail("registry", "promote", "challenger", "--registry", registry).stdout.startswith("version 2 (worse)")
    bundle = Path(longtail("registry", "path", "--registry", registry).stdout.strip())
    assert json.loads((bundle / "manifest.json").read_text())["version"] == "worse"
    assert longtail("registry", "rollback", "--registry", registry).stdout.startswith("version 1 (first) is champion")
    refused = longtail("registry", "rollback", "--registry", registry)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "longtail: nothing to roll back to: no version was champion before this one\n"


def test_a_terminal_of_80_columns_shows_ids_whole_and_points_on_for_the_rest_of_a_reason():
    about = {"figures": {"ndcg@10": 0.1234}, "data_fingerprint": "f00dfeed11", "source": "", "run_id": "", "created": 0}
    long = f"held back: {'one part of the people surely loses; ' * 9}"
    versions = [
        Version(12, "20261127-223010-0123abcd", (), "ndcg@10", decision=long, **about),
        Version(1, "20261126-223010-0123abcd", ("champion",), "ndcg@10", decision="champion: the first one", **about),
    ]
    lines = listed(versions, 80)
    assert max(map(len, lines)) <= 80
    assert [line[:4].strip() for line in lines] == ["vers", "12", "", "", "1", ""]
    assert "20261127-223010-0123abcd" in lines[1] and lines[2].startswith("    held back: one part")
    assert lines[3].endswith("... `longtail registry show 12`") and lines[5] == "    champion: the first one"


def test_what_became_of_a_trained_version_is_said():
    assert outcome(2, ["challenger"], False) == "version 2 (challenger)"
    assert outcome(3, [], True) == "version 3 (held back): `longtail registry show 3` says why"


def test_a_mistake_in_the_surfaces_is_told_before_anything_is_trained(tmp_path):
    shop, surfaces = tmp_path / "shop", tmp_path / "surfaces.yaml"
    shop.mkdir()
    for name in ("events.parquet", "items.parquet"):
        (shop / name).touch()
    surfaces.write_text("surfaces:\n  homepage:\n    places: 20\n")
    done = longtail("train", shop, "--out", tmp_path / "run", "--surfaces", surfaces)
    assert (done.returncode, done.stdout) == (2, "")
    assert "surfaces.yaml line 3" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["registry", "promote", "7", "--registry", "none"], "longtail: no version or alias '7' in the registry none"),
        (["train", "no-such-folder"], "no-such-folder has no events.parquet"),
        (["import", "online-retail", "no-such-folder", "--out", "x"], "no-such-folder"),
        (["import", "no-such-reader", ".", "--out", "x"], "there is no reader 'no-such-reader': choose one of"),
        (["benchmark", "no-such-protocol", ".", "--out", "x.parquet"], "no-such-protocol"),
        (["serve", "--registry", "none"], "run `longtail train` first"),
        (["recommend", "--user", "u", "--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, message, tmp_path):
    done = longtail(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}  # a new pseudonym key at most
