"""A Kubernetes on this machine: API server, controllers, scheduler, simulated GPU nodes."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.certificates import Authority
from tests.cluster.processes import Processes
from tests.cluster.tools import program

READY_S = 180.0
SERVICES = "10.96.0.0/16"
GPU = "nvidia.com/gpu"


class Cluster:
    """What a test does with a cluster: kubectl, helm, objects as dicts, and waiting.

    `prefix` are words before every command (into a node's namespaces).
    """

    def __init__(self, kubeconfig: Path, folder: Path, prefix: Iterable[str] = ()) -> None:
        self.kubeconfig, self.folder, self.prefix = kubeconfig, folder, list(prefix)
        # Helm's caches and settings of whoever runs this stay out of it, and the other way round.
        self.environment = {"KUBECONFIG": str(kubeconfig), "HOME": str(folder), "HELM_CACHE_HOME": str(folder / "helm")}

    def run(self, *words: str | os.PathLike[str], stdin: str | None = None) -> str:
        """What a command prints.

        Raises:
            Refused: it ended with another code than 0; the message is what it said.
        """
        done = subprocess.run(
            [*self.prefix, *map(os.fspath, words)], input=stdin, capture_output=True, text=True,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        if done.returncode:
            raise Refused(f"{Path(words[0]).name} {words[1]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """What `kubectl ...` prints; raises `Refused`."""
        return self.run(program("kubectl"), *words, stdin=stdin)

    def helm(self, *words: str) -> str:
        """What `helm ...` prints; raises `Refused`."""
        return self.run(program("helm"), *words)

    def get(self, kind: str, name: str | None = None, namespace: str | None = None, selector: str = "") -> Any:
        """One object, or the list of them; `namespace="*"` for all."""
        where = ["-A"] if namespace == "*" else ["-n", namespace] if namespace else []
        words = [*where, *([name] if name else []), *(["-l", selector] if selector else [])]
        found = json.loads(self.kubectl("get", kind, *words, "-o", "json"))
        return found if name else found["items"]

    def apply(self, objects: Iterable[dict], *flags: str) -> str:
        """Apply server-side, unknown fields refused; what kubectl says, a line an object."""
        text = yaml.safe_dump_all(objects, sort_keys=False)
        return self.kubectl("apply", "--server-side", "--validate=strict", *flags, "-f", "-", stdin=text)

    def wait(self, what: str, check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """The first answer of `check` that is true; what the API server refuses meanwhile counts as not yet.

        Raises:
            TimeoutError: none came in time.
        """
        deadline, last = time.monotonic() + timeout_s, "nothing"
        while time.monotonic() < deadline:
            try:
                if answer := check():
                    return answer
            except Refused as error:
                last = str(error)
            time.sleep(0.1)
        raise TimeoutError(f"after {timeout_s:.0f} s not: {what} (last: {last})")


class Refused(Exception):
    """A command failed; the message is what it said."""


class ControlPlane(Cluster):
    """etcd, API server, controller manager and scheduler on loopback.

    Ports are free ones, so that several stand side by side; `folder` holds everything else. In a sandbox (see
    `Processes`) they listen on its addresses, which nobody outside reaches.
    """

    def __init__(self, folder: Path, sandbox: bool = False, tied: bool = False) -> None:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(folder, sandbox, tied)
        super().__init__(folder / "kubeconfig", folder, self.processes.prefix)
        self.host = "0.0.0.0" if sandbox else "127.0.0.1"
        self.authority = Authority(folder / "pki")

    def start(self, advertise: str = "127.0.0.1") -> ControlPlane:
        """Start it and return when the API server is ready and the default service account is there.

        Raises:
            NotBuilt: a program cannot be had.
            RuntimeError: a part ended; the message carries the end of its log.
        """
        names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        programs = {name: program(name) for name in names}
        etcd, peer, api = free_ports(3)
        pki = self.authority.folder
        self.authority.issue("apiserver", "kube-apiserver", addresses=["127.0.0.1", advertise, _first(SERVICES)])
        self.authority.issue("admin", "admin", group="system:masters")
        self.authority.key("service-accounts")
        self._write_kubeconfig(f"https://127.0.0.1:{api}")
        start, log = self.processes.start, "--v=1"
        start("etcd", [
            programs["etcd"], f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        ])  # fmt: skip
        start("apiserver", [
            programs["kube-apiserver"], log, f"--etcd-servers=http://127.0.0.1:{etcd}", f"--bind-address={self.host}",
            f"--advertise-address={advertise}", f"--secure-port={api}", f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt", f"--service-account-key-file={pki}/service-accounts.pub",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key",
            f"--kubelet-certificate-authority={pki}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
            "--endpoint-reconciler-type=none" if advertise.startswith("127.") else "--profiling=false",
        ])  # fmt: skip
        self.await_part("apiserver", lambda: "ok" in self.kubectl("get", "--raw", "/readyz"))
        one = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0", log]
        start("controller-manager", [
            programs["kube-controller-manager"], *one, "--use-service-account-credentials",
            f"--service-account-private-key-file={pki}/service-accounts.key", f"--root-ca-file={pki}/ca.crt",
            "--node-monitor-grace-period=3600s",
        ])  # fmt: skip
        start("scheduler", [programs["kube-scheduler"], *one])
        self.await_part("controller-manager", lambda: self.get("serviceaccount", "default", "default"))
        return self

    def simulate(self, nodes: Iterable[dict]) -> None:
        """Nodes that exist in name only, see `simulated_node`; kwok tells the API server that all is well on them.

        Raises:
            NotBuilt: there is no kwok.
        """
        words = ["--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"]
        self.processes.start("kwok", [program("kwok"), f"--kubeconfig={self.kubeconfig}", *words])
        self.apply(nodes)

    def stop(self) -> None:
        """End every process; the folder stays until its owner removes it."""
        self.processes.stop()

    def await_part(self, part: str, check: Callable[[], Any]) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.processes.running(part):
            try:
                if check():
                    return
            except Refused:
                time.sleep(0.05)
        raise RuntimeError(f"{part} did not get ready:\n{self.processes.tail(part)}")

    def _write_kubeconfig(self, server: str) -> None:
        def inline(name: str) -> str:
            return base64.b64encode((self.authority.folder / name).read_bytes()).decode()

        user = {"client-certificate-data": inline("admin.crt"), "client-key-data": inline("admin.key")}
        cluster = {"server": server, "certificate-authority-data": inline("ca.crt")}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "longtail",
            "clusters": [{"name": "longtail", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "longtail", "context": {"cluster": "longtail", "user": "admin"}}],
        }  # fmt: skip
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))


def simulated_node(name: str, gpus: int = 0, zone: str = "a", cpu: int = 16, memory: str = "64Gi") -> dict:
    """A node whose pods kwok runs in name only; one with GPUs has the usual label and taint of GPU pools."""
    room = {"cpu": str(cpu), "memory": memory, "pods": "110", "ephemeral-storage": "500Gi"}
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone, "kubernetes.io/os": "linux"}
    taints = []
    if gpus:
        room[GPU] = str(gpus)
        labels |= {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-L4"}
        taints = [{"key": GPU, "value": "present", "effect": "NoSchedule"}]
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints}, "status": {"allocatable": room, "capacity": room},
    }  # fmt: skip


NODES = [
    simulated_node("cpu-0", zone="a"),
    simulated_node("cpu-1", zone="b"),
    simulated_node("cpu-2", zone="c"),
    simulated_node("gpu-0", gpus=4, zone="a"),
    simulated_node("gpu-1", gpus=4, zone="b"),
]


def free_ports(n: int) -> list[int]:
    """Loopback ports that nothing listens on now."""
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _first(network: str) -> str:
    return network.split("/")[0].removesuffix("0") + "1"
