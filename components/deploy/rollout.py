"""A version in front of people: its bundle beside what serves, the switch, the proof, and back when any of it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.deploy.proof import Wanted, prove
from components.deploy.release import BEFORE, DEPLOYED, FILE, ChangedMeanwhile, Release, Storage
from components.deploy.storage import Place, needed, visible
from longtail.engine.deployment import Deployment, Variant
from longtail.errors import InvalidInput, LongtailError
from longtail.governance.audit import AuditLog
from longtail.registry import CHAMPION, Registry
from longtail.yaml_model import parse_yaml

Say = Callable[[str], None]


class NotDeployed(LongtailError):
    """The version did not prove itself; what served before serves again."""

    exit_code = 1


@dataclass(frozen=True)
class Patience:
    """Seconds: for the pods of a rollout, for the servers to take up the file and answer, between looks."""

    rollout_s: float = 1800.0
    proof_s: float = 300.0
    every_s: float = 2.0


def deploy_version(
    registry: str,
    version: str,
    variant: str,
    share: float,
    namespace: str,
    release: str,
    storage: str = "",
    url: str = "",
    timeout_s: int = 1800,
    say: Say = print,
) -> dict[str, Any]:
    """Let `variant` of a release serve a version of the registry; returns the number, the bundle and its address.

    Args:
        registry: folder of the registry, or address of an MLflow server.
        version: alias or number.
        variant: name of the variant; one that is not there yet takes `share` from the first.
        share: share of the people of a variant that is not there yet.
        namespace: where the release is installed.
        release: name of the release.
        storage: `PREFIX=ADDRESS`, see `visible`.
        url: address of the recommender; by default the release's Service.
        timeout_s: seconds for the rollout.
        say: takes a line of progress.

    Raises:
        InvalidInput: there is no such version or release, it is held back, or pods cannot get at the bundle.
        NotDeployed: it failed; what served before serves again.
    """
    found = Registry(registry).get(version)
    if found.held and CHAMPION not in found.aliases:
        raise InvalidInput(f"version {found.number} is {found.decision}: `longtail registry promote` it by hand first")
    place = Place.of(visible(Registry(registry).storage_uri(found.number), storage))
    serving = Release.connect(release, namespace)
    address = url or f"http://{release}.{namespace}.svc"
    about = {
        "release": f"{namespace}/{release}", "versions": {variant: str(found.number)},
        "bundles": {variant: found.bundle_version},
    }  # fmt: skip
    with AuditLog.of(registry).recording("deployment", about):
        roll_out(
            serving, place, variant, share, Wanted(variant, found.bundle_version), str(found.number), address,
            Patience(rollout_s=timeout_s), say,
        )  # fmt: skip
    return {"version": found.number, "bundle": found.bundle_version, "uri": place.uri}


def roll_out(
    release: Release, place: Place, variant: str, share: float, wanted: Wanted, number: str, url: str,
    patience: Patience, say: Say,
) -> None:  # fmt: skip
    """The bundle of `place` becomes `variant`'s: mounted beside what serves, then named by the deployment file.

    What served stays mounted until the next deployment, so that going back needs no new pods. A run that was killed
    leaves the file that served well in an annotation: the next run goes on from there.

    Raises:
        NotDeployed: it failed; what served before serves again.
    """
    config = release.config_map()
    annotations = config["metadata"].get("annotations") or {}
    text = config["data"][FILE]
    before = annotations.get(BEFORE, text)
    deployed = {DEPLOYED: annotations[DEPLOYED]} if DEPLOYED in annotations else {}
    served = parse_yaml(before, Deployment, f"{FILE} of {release.name}-deployment")
    after = with_variant(served, variant, place, share).text
    storage = release.storage()
    if text == before and parse_yaml(text, Deployment) == parse_yaml(after, Deployment):
        say(f"{variant} serves version {number} already")
        after = text
    elif text not in (before, after):  # a run that was killed left something else, which never proved itself
        release.write(before, deployed)
        config, text = release.config_map(), before
    try:
        _stage(release, storage, served, place, patience, say)
        if text != after:
            release.write(after, deployed | {BEFORE: before}, config["metadata"]["resourceVersion"])
            say(f"the deployment file names version {number} for {variant}")
        share_now = parse_yaml(after, Deployment).variants[variant].share
        if wrong := prove(url, wanted if share_now else None, patience.proof_s, patience.every_s):
            raise NotDeployed(wrong)
    except ChangedMeanwhile:
        raise  # what serves now is somebody else's choice
    except BaseException as error:  # noqa: BLE001 - whatever it is, people get what they got
        _put_back(release, before, after, deployed, storage, error, number, url, patience)
    config = release.config_map()
    release.write(config["data"][FILE], {DEPLOYED: number}, config["metadata"]["resourceVersion"])
    say(f"version {number} serves as {variant} ({share_now:.0%} of the people)")


def with_variant(deployment: Deployment, name: str, place: Place, share: float) -> Deployment:
    """The deployment with another bundle for a variant; a new one takes its share from the first.

    Raises:
        InvalidInput: the first variant has no such share to give, or experiments run beside it.
    """
    variants = dict(deployment.variants)
    first = next(iter(variants))
    if name in variants:
        variants[name] = Variant(bundle=place.folder, share=variants[name].share)
    elif deployment.experiments:
        raise InvalidInput(f"experiments run beside {first}: make {name} a variant of one")
    else:
        left = variants[first].share - share
        if not 0 <= share <= 1 or left < 0:
            raise InvalidInput(f"share={share}: {first} has {variants[first].share:g} to give")
        variants[first] = Variant(bundle=variants[first].bundle, share=round(left, 9))
        variants[name] = Variant(bundle=place.folder, share=share)
    return deployment.model_copy(update={"variants": variants})


def _stage(
    release: Release, storage: dict[str, dict[str, Storage]], served: Deployment, place: Place, patience: Patience,
    say: Say,
) -> None:  # fmt: skip
    """Bring the bundle into the pods beside those that serve; everybody still gets what they got."""
    for name, parts in storage.items():
        if any(dict(place.entry) not in uris for uris in parts.values()):
            release.store(name, {part: needed(uris, served.bundles, place) for part, uris in parts.items()})
            say(f"{name} gets {place.uri}")
    deadline = time.monotonic() + patience.rollout_s
    while waits := release.unready():
        if time.monotonic() > deadline:
            raise NotDeployed(waits)
        time.sleep(patience.every_s)


def _put_back(
    release: Release, before: str, after: str, deployed: dict[str, str], storage: dict[str, dict[str, Storage]],
    error: BaseException, number: str, url: str, patience: Patience,
) -> None:  # fmt: skip
    """Let serve again what served, and say so.

    Raises:
        NotDeployed: always; the message says what failed and whether what served answers again.
    """
    failed = f"version {number} was not deployed: {error or type(error).__name__}"
    try:
        if release.config_map()["data"][FILE] not in (before, after):
            raise NotDeployed(f"{failed}; somebody else changed the deployment file meanwhile: it is left as it is")
        release.write(before, deployed)
        for name, parts in storage.items():
            release.store(name, parts)
    except NotDeployed:
        raise
    except LongtailError as failure:
        raise NotDeployed(f"{failed}; what served before could not be put back ({failure}): run this again") from error
    wrong = prove(url, None, patience.proof_s, patience.every_s)
    back = "what served before serves again" if not wrong else f"what served before was put back, but {wrong}"
    raise NotDeployed(f"{failed}; {back}") from error
