"""The chart on a real node: images that were built here, the demo's bundle on a volume, lists over the service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from longtail.engine.baked import BakedPeople
from longtail.identity.pseudonyms import GIVEN
from tests.cluster import crds, kserve, node
from tests.cluster.__main__ import furnish
from tests.cluster.node import NodeCluster
from tests.cluster.test_chart import CHART, INSTANCE, RELEASE, prepare
from tests.cluster.tools import NotBuilt

ROOT = Path(__file__).parents[2]
NAMESPACE = "shop"
DEMO = ROOT / "runs" / "demo"
# What serves after the demo's bundle: the same shop, trained in less time.
OTHER = {"windows": 2, "requests": 500, "two_tower": {"epochs": 1, "dim": 16}, "ranker": {"rounds": 40}}
PEOPLE = 300
TAG = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
OURS = ("recommender", "retriever", "ranker", "collector")
REDIS = "localhost/longtail-redis:test"
READY_S = 900.0
pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


@dataclass
class Shop:
    """The chart, installed and Ready, with two bundles `a` and `b` on the claim `bundles`; `a` serves."""

    cluster: NodeCluster
    folder: Path
    versions: dict[str, str]

    @property
    def url(self) -> str:
        """The address of the service that the shop calls."""
        return f"http://{self.cluster.get('service', RELEASE, NAMESPACE)['spec']['clusterIP']}"

    def pods(self, component: str = "") -> list[dict]:
        """Our pods, or those of one component, without those that are ending."""
        chosen = f"app.kubernetes.io/component={component}" if component else "app.kubernetes.io/component!=test"
        found = self.cluster.get("pod", namespace=NAMESPACE, selector=f"{INSTANCE},{chosen}")
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def upgrade(self, *words: str) -> None:
        values = self.folder / "values.yaml"
        self.cluster.helm("upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(values), *words)
        kserve.reconcile(self.cluster, NAMESPACE)

    def settle(self) -> None:
        """Return when every pod of ours is Ready and no old one is left."""

        def settled() -> bool:
            for owner in self.cluster.get("deployment,statefulset", namespace=NAMESPACE):
                status, wanted = owner.get("status", {}), owner["spec"]["replicas"]
                if status.get("observedGeneration") != owner["metadata"]["generation"]:
                    return False
                counts = {status.get(f"{kind}eplicas", 0) for kind in ("updatedR", "readyR", "r")}
                if counts != {wanted}:
                    return False
            return True

        try:
            self.cluster.wait("every pod Ready", settled, READY_S)
        except TimeoutError:
            print(self.cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide"))
            print(self.cluster.kubectl("get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp")[-4000:])
            raise

    def under_load(self, change: Callable[[], None], calm_s: float = 5.0) -> dict:
        """What clients saw while `change()` ran, and a while before and after."""
        out = self.folder / "load.json"
        for file in (out, out.with_suffix(".stop")):
            file.unlink(missing_ok=True)
        words = [sys.executable, "-m", "tests.cluster.load", self.url, self.folder / "people.json", out]
        load = subprocess.Popen([*self.cluster.prefix, *map(str, words)], cwd=ROOT)
        try:
            time.sleep(calm_s)
            change()
            time.sleep(calm_s)
        finally:
            out.with_suffix(".stop").touch()
            load.wait(60)
        seen = json.loads(out.read_text())
        print(f"\n  {sum(seen['levels'].values())} lists: {seen}", flush=True)
        return seen

    def ask(self) -> dict:
        """One list over the service's address."""
        person = json.loads((self.folder / "people.json").read_text())[0]
        words = "import json, sys; from tests.cluster.load import ask; print(json.dumps(ask(*sys.argv[1:])))"
        return json.loads(self.cluster.run(sys.executable, "-c", words, self.url, person))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    lacking = node.missing()
    if lacking:
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("node")
    made = Shop(NodeCluster(folder, tied=True), folder, {})
    try:
        crds.kserve(folder)
        bring(made)
        furnish(made.cluster.start())
        install(made)
        yield made
    except NotBuilt as reason:
        pytest.skip(str(reason))
    finally:
        made.cluster.stop()
        shutil.rmtree(folder)


def bring(made: Shop) -> None:
    """Build the images, train the demo's bundle unless it is there, and another one of the same shop."""
    subprocess.run([ROOT / "serving" / "images.sh", ROOT / ".cluster" / "images", *OURS], check=True)
    if not (DEMO / "run" / "result.json").is_file():
        subprocess.run([sys.executable, "-m", "serving.demo", "--out", DEMO], check=True, cwd=ROOT)
    demo, other = json.loads((DEMO / "run" / "result.json").read_text()), made.folder / "other"
    pairs = {"--source": DEMO / "shop", "--registry": other / "mlflow", "--config": json.dumps(OTHER), "--out": other}
    words = [str(word) for pair in pairs.items() for word in pair]
    subprocess.run([sys.executable, "-m", "pipelines.run_local", *words], check=True, cwd=ROOT)
    trained = json.loads((other / "result.json").read_text())
    for name, bundle in (("a", demo["bundle"]), ("b", trained["bundle"])):
        held = shutil.copytree(bundle, made.folder / "bundles" / name)
        made.versions[name] = json.loads((held / "manifest.json").read_text())["version"]
    people = BakedPeople.open(made.folder / "bundles" / "a").ids.ids[:PEOPLE]
    (made.folder / "people.json").write_text(json.dumps([GIVEN + person.decode() for person in people]))


def install(made: Shop) -> None:
    """Bring images and bundles to the node, install the chart, and wait until everything is Ready."""
    made.cluster.import_images([f"localhost/longtail-{name}:{TAG}" for name in OURS] + [redis_image()])
    data = made.folder / "data"
    data.mkdir()
    data.chmod(0o777)
    values = yaml.safe_load((CHART / "examples" / "small.yaml").read_text())
    prepare(made.cluster, NAMESPACE, values, made.folder / "bundles", data)
    values["variants"]["champion"]["uri"] = "pvc://bundles/a"
    values["image"] = {"registry": "localhost", "pullPolicy": "Never"}
    values["redis"]["image"] = REDIS
    values["pods"] = {"leaveSeconds": 5}
    values["data"] = {"accessMode": "ReadWriteMany"}  # two recommenders log what they show
    # Two of the server that answers, and one of each that it can do without for a while.
    values["recommender"] |= {"replicas": {"min": 2, "max": 2}, "extraArgs": ["--clock=data"]}
    (made.folder / "values.yaml").write_text(yaml.safe_dump(values))
    made.upgrade()
    made.settle()


def redis_image() -> str:
    """Debian's Redis on the base image of ours."""
    have = subprocess.run(["buildah", "inspect", "--type", "image", REDIS], capture_output=True)
    if have.returncode:
        lines = f"""FROM {node.BASE}
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server
"""
        words = ["buildah", "build", "--isolation", "chroot", "--quiet", "--tag", REDIS, "--file", "-"]
        subprocess.run([*words, str(CHART)], input=lines, text=True, check=True, capture_output=True)
    return REDIS


def test_every_pod_is_ready_and_helm_test_gets_a_recommendation(installed: Shop):
    pods = installed.pods()
    parts = sorted(p["metadata"]["labels"]["app.kubernetes.io/component"] for p in pods)
    assert parts == ["collector", "ranker", "recommender", "recommender", "redis", "retriever"]
    for pod in pods:
        assert pod["spec"]["nodeName"] == node.NAME
        for status in pod["status"]["containerStatuses"]:
            assert status["ready"] and not status["restartCount"], (pod["metadata"]["name"], status)
    assert "Succeeded" in installed.cluster.helm("test", RELEASE, "-n", NAMESPACE, "--timeout", "180s")


def test_a_list_comes_over_the_address_of_the_service(installed: Shop):
    answer = installed.ask()
    assert answer["level"] == "full" and len(answer["items"]) == 5
    assert answer["model_version"] == installed.versions["a"]


def test_servers_run_as_nobody_in_particular_and_can_write_nothing_but_their_folders(installed: Shop):
    for part in OURS:
        words = ["exec", "-n", NAMESPACE, installed.pods(part)[0]["metadata"]["name"], "--", "sh", "-c"]
        told = installed.cluster.kubectl(*words, "id -u; touch /app/x 2>&1; touch /tmp/x && echo written")
        assert told.splitlines()[0] == "65532" and "Read-only file system" in told and told.endswith("written\n")


def test_images_of_servers_stay_under_a_gigabyte(installed: Shop):
    for part in OURS:
        words = ["exec", "-n", NAMESPACE, installed.pods(part)[0]["metadata"]["name"], "--", "sh", "-c"]
        told = installed.cluster.kubectl(*words, "du --summarize --one-file-system --bytes / 2>/dev/null | cut -f1")
        assert 100_000_000 < int(told) < 1_000_000_000, part


def test_a_bundle_is_swapped_under_load_and_no_request_fails(installed: Shop):
    def swap() -> None:
        before = {p["metadata"]["uid"] for p in installed.pods()}
        installed.upgrade("--set", "variants.champion.uri=pvc://bundles/b")
        wanted = installed.versions["b"]
        installed.cluster.wait("the new bundle", lambda: installed.ask()["model_version"] == wanted, 180)
        assert {p["metadata"]["uid"] for p in installed.pods()} == before  # without a restart

    seen = installed.under_load(swap)
    assert not seen["failures"] and set(seen["versions"]) == set(installed.versions.values())


@pytest.mark.parametrize("part", ["ranker", "retriever", "recommender"])
def test_a_pod_is_killed_under_load_and_no_request_fails(installed: Shop, part: str):
    """The ranker and the retriever at once, as when a node dies; a recommender as nodes are drained."""

    def kill() -> None:
        name = installed.pods(part)[0]["metadata"]["name"]
        at_once = [] if part == "recommender" else ["--grace-period=0", "--force"]
        installed.cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, *at_once)
        installed.settle()
        installed.cluster.wait("full lists", lambda: installed.ask()["level"] == "full", 180)

    seen = installed.under_load(kill)
    assert not seen["failures"] and seen["levels"]["full"]


def test_the_chart_is_upgraded_under_load_and_no_request_fails(installed: Shop):
    def upgrade() -> None:
        replaced = ("recommender", "retriever", "ranker")
        before = {p["metadata"]["uid"] for p in installed.pods()}
        installed.upgrade("--set", "pods.leaveSeconds=6")
        installed.settle()
        assert not before & {p["metadata"]["uid"] for part in replaced for p in installed.pods(part)}
        installed.cluster.wait("full lists", lambda: installed.ask()["level"] == "full", 180)

    seen = installed.under_load(upgrade)
    assert not seen["failures"] and seen["levels"]["full"]
