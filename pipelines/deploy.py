"""One step: a version of the registry in front of people, after a promotion or a rollback by hand."""

from kfp import dsl

from components.deploy.component import deploy as deploying


@dsl.pipeline(name="longtail-deploy", description="A version of the registry in front of people.")
def deploy(
    registry: str,
    namespace: str,
    version: str = "champion",
    variant: str = "champion",
    share: float = 0.1,
    release: str = "longtail",
    storage: str = "",
    url: str = "",
    timeout_s: int = 1800,
):
    """Deploy one version.

    Args:
        registry: folder of the registry, or address of an MLflow server.
        namespace: where the chart is installed.
        version: alias or number of the version.
        variant: whose bundle it becomes; one that is not there yet takes its share from the first.
        share: share of the people of a variant that is not there yet.
        release: name of its release.
        storage: PREFIX=ADDRESS where pods find the registry's artifacts elsewhere than it says.
        url: address of the recommender; empty for the release's own Service.
        timeout_s: seconds that the pods may take.
    """
    task = deploying(
        registry=registry, version=version, variant=variant, share=share, namespace=namespace, release=release,
        storage=storage, url=url, timeout_s=timeout_s,
    )  # fmt: skip
    task.set_caching_options(False)  # a cluster is no artifact
