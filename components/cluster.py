"""The Kubernetes API, as a step in a pod or a person with a kubeconfig reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException

from longtail.errors import InvalidInput, LongtailError, Unavailable

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def connect() -> dynamic.DynamicClient:
    """By the service account of the pod, else by a kubeconfig.

    Raises:
        InvalidInput: there is neither.
    """
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise InvalidInput(f"no cluster: run this in a pod, or set KUBECONFIG ({error})") from None
    return dynamic.DynamicClient(client.ApiClient())


def resource(api: dynamic.DynamicClient, version: str, kind: str, needs: str) -> Any:
    """What reads and writes the objects of a kind.

    Raises:
        InvalidInput: the cluster does not know it; `needs` is what must be installed first.
    """
    try:
        return api.resources.get(api_version=version, kind=kind)
    except dynamic.exceptions.ResourceNotFoundError:
        raise InvalidInput(f"the cluster knows no {kind} ({version}): install {needs} first") from None


def own_namespace() -> str:
    """The namespace of the pod, else that of the kubeconfig's context."""
    if _NAMESPACE.is_file():
        return _NAMESPACE.read_text().strip()
    _, active = config.list_kube_config_contexts()
    return active["context"].get("namespace", "default")


def told(error: ApiException) -> LongtailError:
    """What the API refused, in one line."""
    text = f"the Kubernetes API answered {error.status}: {' '.join(str(error.body or error.reason).split())[:300]}"
    return (Unavailable if (error.status or 500) >= 500 else InvalidInput)(text)
