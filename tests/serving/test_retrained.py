"""A retrained champion gets to the people by itself, from a pass to real servers. The training is a stand-in."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longtail.engine.bundle import write_manifest
from longtail.errors import Unavailable
from longtail.registry import Registry
from longtail.retraining.ledger import Ledger, Run
from serving.local import LocalServing
from serving.ranker.triton import wheel
from tests.retraining.signals import checked
from tests.retraining.signals import signal as verdict
from tests.serving import small_bundle

pytestmark = [pytest.mark.serving, pytest.mark.slow]

try:
    wheel()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

POLICY = """
rules: [{{when: index_age, do: refresh, confirm: {{days: 1, of: 1}}}}]
cooldown_days: {{refresh: 0}}
budget: {{runs: 100}}
run: {{source: shop, out: out, registry: {registry}, deploy: {{state: {state}, url: "{url}", timeout_s: 150}}}}
"""
PIPELINE = """
import json, pathlib, sys
from longtail.registry import Registry
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with pathlib.Path("starts").open("a") as file:
    file.write("x")
bundle, ndcg = json.loads(pathlib.Path("next.json").read_text())
Registry(flags["--registry"]).register(pathlib.Path(bundle), {"ndcg@10": ndcg}, {}, "# it", "f00d", run=flags["--run"])
"""
CRASH = """
import os, signal, sys
from longtail.retraining import passing
passing.deploy = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
from longtail.cli import main
sys.argv = ["longtail", "retrain", "--policy", "policy.yaml", "--monitoring", ".", "--ledger", "ledger.db"]
main()
"""


def version(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["version"]


def until_full(serving: LocalServing) -> None:
    """A busy machine misses deadlines now and then; what serves must give a full list within a minute."""
    end = time.monotonic() + 60
    while (answer := serving.recommend({"user_id": "u1", "k": 3}))["level"] != "full":
        assert time.monotonic() < end, answer
        time.sleep(0.5)


class Shop:
    """A registry, servers that serve its first version, and passes that end with another one."""

    def __init__(self, folder: Path, serving: LocalServing, first: Path) -> None:
        self.folder, self.serving, self.day = folder, serving, 0
        self.registry = Registry(folder / "mlflow")
        self.registry.register(first, {"ndcg@10": 0.1}, {}, "# it", "f00d")
        url = f"http://127.0.0.1:{serving.http_port}"
        (folder / "policy.yaml").write_text(POLICY.format(registry=folder / "mlflow", state=serving.state, url=url))
        (folder / "pipelines").mkdir()
        (folder / "pipelines" / "__init__.py").write_text("")
        (folder / "pipelines" / "run_local.py").write_text(PIPELINE)

    def retrain(self, bundle: Path, ndcg: float, code: str = "") -> tuple[int, str]:
        """A new day on which the index is too old."""
        self.day += 1
        checked(self.folder, verdict("index_age", self.day))
        (self.folder / "next.json").write_text(json.dumps([str(bundle), ndcg]))
        return self.again(code)

    def again(self, code: str = "") -> tuple[int, str]:
        words = ["-m", "longtail.cli", "retrain", "--policy", "policy.yaml"]
        words += ["--monitoring", ".", "--ledger", "ledger.db"]
        done = subprocess.run(
            [sys.executable, *(["-c", code] if code else words)], cwd=self.folder, text=True, timeout=400,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name != "LONGTAIL_URL"},
        )  # fmt: skip
        return done.returncode, done.stdout

    def served(self) -> dict[str, str]:
        return {name: variant["version"] for name, variant in self.serving.status()["variants"].items()}

    def last(self) -> Run:
        return Ledger(self.folder / "ledger.db").runs()[0]

    @property
    def trainings(self) -> int:
        starts = self.folder / "starts"
        return len(starts.read_text()) if starts.is_file() else 0


@pytest.fixture(scope="module")
def bundles(bundle_folder, tmp_path_factory) -> dict[str, Path]:
    """Three that are sound, and one whose retriever nothing can load, though its manifest says that all is well."""
    folder = tmp_path_factory.mktemp("bundles")
    other, worse, broken = folder / "other", folder / "worse", folder / "broken"
    small_bundle.make(other, small_bundle.shop(seed=1))
    for copied in (worse, broken):
        shutil.copytree(bundle_folder, copied)
    (broken / "retrieval" / "blend.json").write_text("no blend")
    for copied in (worse, broken):
        (copied / "manifest.json").unlink()
        write_manifest(copied, {"ndcg@10": 0.1}, copied.name)
    return {"first": bundle_folder, "other": other, "worse": worse, "broken": broken}


@pytest.fixture(scope="module")
def shop(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    with LocalServing(bundles["first"], folder / "serving", clock="data") as serving:
        yield Shop(folder, serving, bundles["first"])


def test_one_that_is_no_champion_is_not_deployed_and_the_ledger_says_so(shop, bundles):
    code, said = shop.retrain(bundles["worse"], 0.05)
    assert code == 0, said
    assert shop.served() == {"champion": version(bundles["first"])}
    assert shop.last().state == "succeeded"
    assert shop.last().outcome.endswith("not deployed: it is not the champion")


def test_a_champion_serves_when_the_pass_is_over_though_it_was_killed_in_between(shop, bundles):
    before = shop.trainings
    code, _ = shop.retrain(bundles["other"], 0.2, CRASH)
    assert code == -signal.SIGKILL
    assert (shop.last().state, shop.served()) == ("started", {"champion": version(bundles["first"])})
    code, said = shop.again()
    assert code == 0, said
    assert shop.served() == {"champion": version(bundles["other"])}
    assert shop.trainings == before + 1
    run = shop.last()
    assert (run.state, run.version) == ("succeeded", shop.registry.champion().number)
    assert "; deployed: champion serves" in run.outcome


def test_one_that_does_not_prove_itself_leaves_what_served_and_the_ledger_says_so(shop, bundles):
    before = shop.served()
    code, said = shop.retrain(bundles["broken"], 0.9)
    assert code == 1, said
    until_full(shop.serving)
    assert shop.served() == before
    run = shop.last()
    assert (run.state, run.version) == ("failed", shop.registry.champion().number)
    # A busy machine may run into the time limit before the servers have refused it.
    assert re.search("; not deployed: .*what served goes on", run.outcome)
