"""A real node beside a control plane, in namespaces of its own: containerd, kubelet, proxy, policies and names."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.cluster.cluster import SERVICES, ControlPlane
from tests.cluster.tools import program

BASE = os.environ.get("BASE") or "localhost/longtail-base:bookworm"
NAME = "node-0"
ADDRESS = "10.250.0.1"
PODS = "10.244.0.0/24"
DNS = str(ipaddress.ip_network(SERVICES)[10])
SOCKET = "/run/containerd/containerd.sock"
PROGRAMS = ("containerd", "runc", "buildah", "nft", "conntrack", "ip", "nsenter", "debootstrap", "iptables", "ipset")
PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")


def missing() -> str | None:
    """What this machine lacks for a real node, None where all is there."""
    if os.geteuid():
        return "a real node needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if not (PLUGINS / "bridge").is_file():
        absent.append("containernetworking-plugins")
    return f"a real node needs {', '.join(absent)}" if absent else None


class NodeCluster(ControlPlane):
    """A control plane and one real node. Nobody outside its namespaces can reach it, nor it anything outside."""

    def __init__(self, folder: Path, tied: bool = False) -> None:
        super().__init__(folder, sandbox=True, tied=tied)
        self._cgroup = f"longtail-{os.getpid()}"

    def start(self, advertise: str = ADDRESS) -> NodeCluster:
        """Start everything and return when the node is Ready and names are answered.

        Raises:
            NotBuilt: a program cannot be had.
            RuntimeError: a part ended; the message carries the end of its log.
        """
        for words in (
            ["ip", "link", "add", "node0", "type", "bridge"],
            ["ip", "address", "add", f"{advertise}/24", "dev", "node0"],
            ["ip", "link", "set", "node0", "up"],
            ["ip", "route", "add", "default", "dev", "node0"],
            ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
        ):
            self.run(*words)
        super().start(advertise)
        self._cgroups()
        self.processes.start("containerd", ["containerd", "--config", self._containerd()])
        self.await_part("containerd", lambda: self.run("ctr", "-a", SOCKET, "version"))
        self.import_images([self._pause()])
        kubeconfig, root = f"--kubeconfig={self.kubeconfig}", self.folder / "kubelet"
        self.processes.start("kubelet", [
            program("kubelet"), kubeconfig, f"--config={self._kubelet()}", f"--root-dir={root}",
            f"--hostname-override={NAME}", f"--node-ip={advertise}",
        ])  # fmt: skip
        self.processes.start("kube-proxy", [program("kube-proxy"), f"--config={self._kube_proxy()}"])
        self.await_part("kubelet", lambda: "True" in self.kubectl(
            "get", "node", NAME, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        ))  # fmt: skip
        # Of kube-router only what enforces network policies. It looks for the node when it starts.
        self.processes.start("kube-router", [
            program("kube-router"), kubeconfig, f"--hostname-override={NAME}", "--run-firewall=true",
            "--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false",
            f"--service-cluster-ip-range={SERVICES}", "--health-port=0",
        ])  # fmt: skip
        self._names()
        return self

    def stop(self) -> None:
        """End all processes, pods among them, and with them mounts, interfaces and packet filters."""
        super().stop()
        for controller in CGROUPS.iterdir():
            for folder in sorted((controller / self._cgroup).glob("**/"), reverse=True):
                folder.rmdir()

    def import_images(self, images: Iterable[str]) -> None:
        """Bring images from buildah's store to the node."""
        archive = self.folder / "image.tar"
        for image in images:
            archive.unlink(missing_ok=True)
            subprocess.run(["buildah", "push", "--quiet", image, f"docker-archive:{archive}:{image}"], check=True)
            self.run("ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", str(archive))
        archive.unlink(missing_ok=True)

    def _pause(self) -> str:
        """The image that holds a pod's namespaces: it only has to wait."""
        image = "localhost/pause:1"
        new = subprocess.run(["buildah", "from", BASE], check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(
            ["buildah", "config", "--entrypoint", '["/bin/sleep", "infinity"]', "--cmd", "", new], check=True
        )
        subprocess.run(["buildah", "commit", "--quiet", "--rm", new, image], check=True, capture_output=True)
        return image

    def _containerd(self) -> Path:
        (self.folder / "cni").mkdir(exist_ok=True)
        ipam = {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
        ipam["dataDir"] = str(self.folder / "cni-addresses")
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [{**bridge, "ipam": ipam}]}
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(network))
        config = self.folder / "containerd.toml"
        config.write_text(f"""
version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  # Without CAP_SYS_RESOURCE runc dies of it: "can't get final child's PID from pipe".
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:1"
  cni = {{bin_dir = "{PLUGINS}", conf_dir = "{self.folder}/cni"}}
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    options = {{SystemdCgroup = false}}
""")
        return config

    def _kubelet(self) -> Path:
        pki = self.authority.folder
        self.authority.issue("kubelet", NAME, addresses=[ADDRESS], names=[NAME])
        return self._yaml("kubelet.yaml", {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": ADDRESS,
            "tlsCertFile": f"{pki}/kubelet.crt", "tlsPrivateKeyFile": f"{pki}/kubelet.key",
            "authentication": {
                "anonymous": {"enabled": False}, "webhook": {"enabled": False},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"}, "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": ["pods"], "clusterDNS": [DNS], "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{SOCKET}", "failSwapOn": False, "failCgroupV1": False,
            "podLogsDir": "/var/log/pods", "registerNode": True, "maxPods": 60,
            # A machine whose disk is nearly full is no reason: an image that is collected comes again from nowhere.
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", **dict.fromkeys(
                ("nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"), "0%"
            )},
        })  # fmt: skip

    def _kube_proxy(self) -> Path:
        return self._yaml("kube-proxy.yaml", {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
            "clientConnection": {"kubeconfig": str(self.kubeconfig)}, "clusterCIDR": PODS, "hostnameOverride": NAME,
            "conntrack": {"maxPerCore": 0}, "bindAddress": ADDRESS,
        })  # fmt: skip

    def _names(self) -> None:
        """CoreDNS as a pod, behind the address where others look for it."""
        image = "localhost/coredns:1"
        new = subprocess.run(["buildah", "from", "scratch"], check=True, capture_output=True, text=True).stdout.strip()
        for words in (
            ["copy", "--quiet", new, program("coredns"), "/coredns"],
            ["config", "--entrypoint", '["/coredns", "-conf", "/etc/coredns/Corefile"]', new],
            ["commit", "--quiet", "--rm", new, image],
        ):
            subprocess.run(["buildah", *words], check=True, capture_output=True)
        self.import_images([image])
        labels = {"k8s-app": "kube-dns"}
        about = {"name": "kube-dns", "namespace": "kube-system"}
        ports = [{"name": n, "port": 53, "protocol": p} for n, p in (("dns", "UDP"), ("dns-tcp", "TCP"))]
        corefile = ".:53 {\n  ready\n  errors\n  kubernetes cluster.local {\n    ttl 1\n  }\n}\n"
        reads = ["endpoints", "services", "pods", "namespaces"]
        rules = [{"apiGroups": [group], "resources": kinds, "verbs": ["list", "watch"]}
                 for group, kinds in (("", reads), ("discovery.k8s.io", ["endpointslices"]))]  # fmt: skip
        container = {
            "name": "coredns", "image": image, "imagePullPolicy": "Never",
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
            "volumeMounts": [{"name": "corefile", "mountPath": "/etc/coredns"}],
        }  # fmt: skip
        spec = {
            "serviceAccountName": "kube-dns", "dnsPolicy": "Default", "containers": [container],
            "volumes": [{"name": "corefile", "configMap": {"name": "kube-dns"}}],
        }  # fmt: skip
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kube-dns"}
        rbac, metadata = "rbac.authorization.k8s.io/v1", {"metadata": about}
        self.apply([
            {"apiVersion": "v1", "kind": "ServiceAccount", **metadata},
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "kube-dns"}, "rules": rules},
            {
                "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "kube-dns"}, "roleRef": role,
                "subjects": [{"kind": "ServiceAccount", **about}],
            },
            {"apiVersion": "v1", "kind": "ConfigMap", **metadata, "data": {"Corefile": corefile}},
            {
                "apiVersion": "apps/v1", "kind": "Deployment", **metadata,
                "spec": {
                    "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            },
            {
                "apiVersion": "v1", "kind": "Service", **metadata,
                "spec": {"clusterIP": DNS, "ports": ports, "selector": labels},
            },
        ])  # fmt: skip
        dns = ("deployment", "kube-dns", "kube-system")
        self.wait("names", lambda: self.get(*dns)["status"].get("readyReplicas"), 120)

    def _cgroups(self) -> None:
        """A tree of its own for pods: a folder in every controller of version 1, one in version 2."""
        for controller in [CGROUPS] if (CGROUPS / "cgroup.controllers").is_file() else CGROUPS.iterdir():
            if controller.is_dir() and not controller.is_symlink():
                (controller / self._cgroup).mkdir(exist_ok=True)
                for name in ("cpuset.mems", "cpuset.cpus"):
                    if (controller / name).is_file() and not (controller / "cgroup.controllers").is_file():
                        (controller / self._cgroup / name).write_text((controller / name).read_text())

    def _yaml(self, name: str, content: dict) -> Path:
        (self.folder / name).write_text(yaml.safe_dump(content))
        return self.folder / name
