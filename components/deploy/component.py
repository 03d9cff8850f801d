"""Put a version of the registry in front of people, and what served before back when it does not prove itself."""

from kfp import dsl

from components.step import step


@step
def deploy(
    registry: str,
    version: str,
    variant: str,
    share: float,
    namespace: str,
    release: str,
    storage: str,
    url: str,
    timeout_s: int,
    deployed: dsl.Output[dsl.Artifact],
):
    """Put a version of the registry in front of people, and what served before back when it does not prove itself.

    Args:
        registry: folder of the registry, or address of an MLflow server.
        version: alias or number of the version.
        variant: whose bundle it becomes; one that is not there yet takes its share from the first.
        share: share of the people of a variant that is not there yet.
        namespace: where the chart is installed.
        release: name of its release.
        storage: PREFIX=ADDRESS where pods find the registry's artifacts elsewhere than it says; else empty.
        url: address of the recommender; empty for the release's own Service.
        timeout_s: seconds that the pods may take.
        deployed: number, version and address of the bundle.
    """
    import json
    from pathlib import Path

    from components.deploy.rollout import deploy_version

    told = deploy_version(registry, version, variant, share, namespace, release, storage, url, timeout_s)
    deployed.metadata.update(told)
    Path(deployed.path).write_text(json.dumps(told))
