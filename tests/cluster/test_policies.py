"""The chart's network policies by traffic: pods that wear our labels, on a real node that enforces what it is told."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helm.manifests import CHART, KUBE_VERSION, PREREQUISITES
from tests.cluster import node
from tests.cluster.node import NodeCluster
from tests.cluster.tools import NotBuilt, program

NAMESPACE, RELEASE = "shop", "longtail"
PORTS = (6379, 8002, 8080, 8081)
# Who may open a connection to whom; nothing else that begins or ends at a pod of ours may be answered.
ALLOWED = {
    ("recommender", "retriever", 8080), ("recommender", "ranker", 8080), ("recommender", "redis", 6379),
    ("collector", "redis", 6379), ("precompute", "redis", 6379), ("test", "recommender", 8080),
    ("client", "recommender", 8080), ("client", "recommender", 8081), ("client", "collector", 8080),
    ("scraper", "retriever", 8080), ("scraper", "ranker", 8002), ("scraper", "recommender", 8080),
    ("scraper", "collector", 8080),
}  # fmt: skip
OURS = ("recommender", "retriever", "ranker", "collector", "redis", "precompute", "test", "monitor")
# Not of the release, by namespace: a client is any pod beside ours, a scraper one of the namespace `monitoring`.
OTHERS = {"client": NAMESPACE, "scraper": "monitoring", "stranger": "elsewhere"}
LISTEN = f"""
import socket, threading
def answer(server):
    while True:
        server.accept()[0].close()
servers = [socket.create_server(("", port), backlog=64) for port in {PORTS}]
for server in servers:
    threading.Thread(target=answer, args=(server,)).start()
"""
ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def answered(place):
    try:
        socket.create_connection(place, timeout=3).close()
    except OSError:
        return False
    return True
places = [tuple(place) for place in json.loads(sys.argv[1])]
try:
    name = socket.gethostbyname("recommender.shop.svc.cluster.local")
except OSError as error:
    name = str(error)
with ThreadPoolExecutor(16) as pool:
    print(json.dumps([name, list(pool.map(answered, places))]))
"""
pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


class Traffic:
    """A pod a component, which listens on every port that any of ours has, and strangers."""

    def __init__(self, cluster: NodeCluster) -> None:
        self.cluster = cluster
        self.namespace = {**dict.fromkeys(OURS, NAMESPACE), **OTHERS}
        about = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in {*self.namespace.values()}]
        cluster.apply([*about, *(self._pod(name) for name in self.namespace), _service()])
        cluster.wait("every pod Ready", self._addresses, 120)
        self.address = self._addresses()

    def answered(self) -> tuple[set[tuple[str, str, int]], dict[str, str]]:
        """Who reached whom on which port, and what each was told when it asked for an address by name."""
        with ThreadPoolExecutor(4) as pool:
            told = dict(zip(self.namespace, pool.map(self._ask, self.namespace), strict=True))
        return {one for _, reached in told.values() for one in reached}, {who: name for who, (name, _) in told.items()}

    def _ask(self, who: str) -> tuple[str, set[tuple[str, str, int]]]:
        places = [(whom, port) for whom in self.namespace if whom != who for port in PORTS]
        words = ["exec", "-n", self.namespace[who], who, "--", "python3", "-c", ASK]
        name, reached = json.loads(self.cluster.kubectl(*words, json.dumps([(self.address[n], p) for n, p in places])))
        return name, {(who, *place) for place, yes in zip(places, reached, strict=True) if yes}

    def _addresses(self) -> dict[str, str]:
        pods = [p for n in {*self.namespace.values()} for p in self.cluster.get("pod", namespace=n)]
        there = [p for p in pods if any(s["ready"] for s in p["status"].get("containerStatuses", []))]
        return {p["metadata"]["name"]: p["status"]["podIP"] for p in there} if len(there) == len(pods) else {}

    def _pod(self, name: str) -> dict:
        labels = {f"app.kubernetes.io/{k}": v for k, v in _labels(name).items()} if name in OURS else {}
        container = {
            "name": "listener", "image": node.BASE, "imagePullPolicy": "Never", "command": ["python3", "-c", LISTEN],
            "readinessProbe": {"tcpSocket": {"port": PORTS[-1]}, "periodSeconds": 1},
        }  # fmt: skip
        return {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace[name], "labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        }  # fmt: skip


def _labels(component: str) -> dict[str, str]:
    return {"name": "longtail", "instance": RELEASE, "component": component}


def _service() -> dict:
    """What pods ask for by name."""
    spec = {"clusterIP": "None", "selector": {"app.kubernetes.io/component": "recommender"}}
    about = {"name": "recommender", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec}


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    if lacking := node.missing():
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("policies")
    cluster = NodeCluster(folder, tied=True)
    try:
        program("helm")
        cluster.start()
        cluster.import_images([node.BASE])
        yield Traffic(cluster)
    except NotBuilt as reason:
        pytest.skip(str(reason))
    finally:
        cluster.stop()
        shutil.rmtree(folder)


def policies(cluster: NodeCluster) -> str:
    """Those of the chart, as Helm renders them."""
    words = [
        "template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(CHART / "examples" / "small.yaml"),
        "--kube-version", KUBE_VERSION, *(word for name in PREREQUISITES for word in ("--api-versions", name)),
    ]  # fmt: skip
    return cluster.helm(*words, "--show-only", str(Path("templates", "network", "policies.yaml")))


def test_only_the_connections_that_the_parts_need_are_answered(traffic: Traffic):
    everything, _ = traffic.answered()
    pods = len(traffic.namespace)
    assert len(everything) == pods * (pods - 1) * len(PORTS)  # what is refused below is refused by the policies
    traffic.cluster.kubectl("apply", "-f", "-", stdin=policies(traffic.cluster))

    def ours() -> set[tuple[str, str, int]]:
        return {one for one in traffic.answered()[0] if {*one[:2]} & {*OURS}}

    with contextlib.suppress(TimeoutError):  # they come one by one; what differs in the end is told below
        traffic.cluster.wait("the policies to be enforced", lambda: ours() == ALLOWED, 60)
    reached, names = traffic.answered()
    assert {one for one in reached if {*one[:2]} & {*OURS}} == ALLOWED
    # Others go on as they did: the policies are about our pods only.
    assert reached - ALLOWED == {one for one in everything if not {*one[:2]} & {*OURS}}
    # Names are asked of pods in kube-system, so this too is traffic that a policy lets out.
    assert set(names.values()) == {traffic.address["recommender"]}
