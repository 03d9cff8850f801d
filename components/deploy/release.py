"""The objects of an installed release that a deployment changes, through the Kubernetes API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubernetes import dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError

from components import cluster
from longtail.errors import InvalidInput

MANAGER = "longtail-deploy"
FILE = "deployment.yaml"
BEFORE = "longtail.dev/before"  # the file that served well, while another one has yet to prove itself
DEPLOYED = "longtail.dev/deployed"
Storage = list[dict[str, str]]


class ChangedMeanwhile(InvalidInput):
    """Somebody else wrote the deployment file."""


@dataclass(frozen=True)
class Release:
    """The release `name` in `namespace`; `api` speaks with the cluster."""

    name: str
    namespace: str
    api: dynamic.DynamicClient

    @staticmethod
    def connect(name: str, namespace: str) -> Release:
        """By the service account of the pod, else by a kubeconfig.

        Raises:
            InvalidInput: there is neither.
        """
        return Release(name, namespace, cluster.connect())

    @property
    def services(self) -> tuple[str, str]:
        """The InferenceServices that read bundles, the one that others ask first."""
        return f"{self.name}-retriever", f"{self.name}-recommender"

    def config_map(self) -> dict[str, Any]:
        """The ConfigMap with the deployment file.

        Raises:
            InvalidInput: there is none.
        """
        return self._get("v1", "ConfigMap", f"{self.name}-deployment")

    def service(self, name: str) -> dict[str, Any]:
        """An InferenceService.

        Raises:
            InvalidInput: there is none.
        """
        return self._get("serving.kserve.io/v1beta1", "InferenceService", name)

    def storage(self) -> dict[str, dict[str, Storage]]:
        """`storageUris` by InferenceService and component, of those that have any.

        Raises:
            InvalidInput: an InferenceService has none.
        """
        found: dict[str, dict[str, Storage]] = {}
        for name in self.services:
            spec = self.service(name)["spec"]
            found[name] = {part: value["storageUris"] for part, value in spec.items() if "storageUris" in (value or {})}
            if not found[name]:
                raise InvalidInput(
                    f"{name} has no storageUris: the bundles of this release are not laid out by its chart"
                )
        return found

    def store(self, name: str, parts: dict[str, Storage]) -> None:
        """Give an InferenceService these `storageUris`."""
        spec = {part: {"storageUris": uris} for part, uris in parts.items()}
        self._apply("serving.kserve.io/v1beta1", "InferenceService", name, {"spec": spec})

    def write(self, text: str, annotations: dict[str, str], version: str | None = None) -> None:
        """Put a deployment file into the ConfigMap; with `version`, over nothing else than what was read.

        Raises:
            ChangedMeanwhile: somebody else wrote the file since.
        """
        metadata: dict[str, Any] = {"annotations": annotations} | ({"resourceVersion": version} if version else {})
        self._apply("v1", "ConfigMap", f"{self.name}-deployment", {"metadata": metadata, "data": {FILE: text}})

    def unready(self) -> str:
        """What the release waits for, empty where all its pods run as their InferenceServices want them."""
        for name in self.services:
            service = self.service(name)
            # Its observedGeneration is no answer to whether KServe has seen the last change: that is a Deployment's.
            conditions = {c["type"]: c for c in (service.get("status") or {}).get("conditions") or []}
            ready = conditions.get("Ready", {})
            if ready.get("status") != "True":
                failed = [c for c in conditions.values() if c.get("status") == "False" and c.get("message")]
                why = (failed or [ready])[0]
                return f"{name} is not Ready ({why.get('reason') or 'no reason given'}: {why.get('message') or '-'})"
            for part in ("predictor", "transformer"):
                wanted = (service["spec"].get(part) or {}).get("storageUris") or []
                if part in service["spec"] and (waits := self._rolling(f"{name}-{part}", wanted)):
                    return waits
        return ""

    def _rolling(self, name: str, storage: Storage) -> str:
        """KServe has called services Ready whose new pods crashed: their Deployments know better."""
        try:
            deployment = self._get("apps/v1", "Deployment", name)
        except InvalidInput:
            return ""  # KServe names them otherwise, or there are none: Ready must do
        if lacks := _lacking(deployment["spec"]["template"]["spec"], storage):
            return f"the pods of {name} were not given {lacks} yet"
        status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
        if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
            return f"the pods of {name} were not looked at yet"
        updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        if updated < wanted or available < wanted or status.get("replicas", 0) > updated:
            return f"{name} has {min(updated, available)} of {wanted} new pods available"
        return ""

    def _get(self, version: str, kind: str, name: str) -> dict[str, Any]:
        try:
            return self._kind(version, kind).get(name=name, namespace=self.namespace).to_dict()
        except NotFoundError:
            raise InvalidInput(
                f"there is no {kind} {name} in {self.namespace}: install the chart there, or name its release"
            ) from None
        except ApiException as error:
            raise _told(error) from None

    def _apply(self, version: str, kind: str, name: str, body: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": self.namespace} | body.pop("metadata", {})
        whole = {"apiVersion": version, "kind": kind, "metadata": metadata} | body
        try:
            self._kind(version, kind).server_side_apply(
                body=whole, name=name, namespace=self.namespace, field_manager=MANAGER, force_conflicts=True
            )
        except ApiException as error:
            raise _told(error) from None

    def _kind(self, version: str, kind: str) -> Any:
        return cluster.resource(self.api, version, kind, "KServe")


def _lacking(pod: dict[str, Any], storage: Storage) -> str:
    """A uri that a pod neither mounts nor downloads; empty: there is none."""
    paths = {mount["mountPath"] for c in pod["containers"] for mount in c.get("volumeMounts") or []}
    paths |= {word for c in pod.get("initContainers") or [] for word in c.get("args") or []}
    return next((one["uri"] for one in storage if one["mountPath"] not in paths), "")


def _told(error: ApiException) -> Exception:
    if error.status == 409:
        return ChangedMeanwhile("somebody else changed the deployment file meanwhile: run this again")
    return cluster.told(error)
