"""A version goes in front of people, or what served before is back: on a small world of pods that follow files."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.deploy.proof import Wanted
from components.deploy.release import BEFORE, DEPLOYED, FILE, ChangedMeanwhile, Release
from components.deploy.rollout import NotDeployed, Patience, deploy_version, roll_out, with_variant
from components.deploy.storage import Place, visible
from longtail.engine.deployment import Deployment, Variant
from longtail.errors import InvalidInput, Unavailable
from longtail.registry import Registry
from longtail.yaml_model import parse_yaml
from tests.components.recommender_stand_in import recommender
from tests.registry.test_registry import write_bundle

OLD, NEW, OTHER = (Place.of(f"s3://models/{name}") for name in ("old", "new", "other"))
VERSIONS = {str(place.folder): name for place, name in ((OLD, "v-old"), (NEW, "v-new"), (OTHER, "v-other"))}
# what proves itself takes moments, and what does not is waited for as long as this: the machine may be busy
PATIENCE = Patience(rollout_s=0.05, proof_s=20, every_s=0.01)
HASTE = Patience(rollout_s=0.05, proof_s=0.5, every_s=0.01)


class Killed(BaseException):
    """The process is gone."""


@dataclass(frozen=True)
class World(Release):
    """A release whose pods do what its objects say; `state` is what is stored, `broken` what goes wrong."""

    state: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # bundles whose pods crash, or whose lists are not full
    lists: list[dict[str, Any]] = field(default_factory=list)  # all that people got

    @staticmethod
    def of(*variants: tuple[str, Place, float]) -> World:
        bundles = {n: Variant(bundle=place.folder, share=share) for n, place, share in variants}
        uris = [dict(place.entry) for _, place, _ in variants]
        storage = {"shop-retriever": {"predictor": uris}, "shop-recommender": {"predictor": uris, "transformer": uris}}
        file = Deployment(variants=bundles).text
        state = {
            "file": file,
            "annotations": {},
            "storage": storage,
            "taken": file,
            "writes": 0,
            "revision": 0,
            "dies_at": None,
        }
        return World("shop", "people", None, state)

    def config_map(self) -> dict[str, Any]:
        self._alive()
        metadata = {"annotations": dict(self.state["annotations"]), "resourceVersion": str(self.state["revision"])}
        return {"metadata": metadata, "data": {FILE: self.state["file"]}}

    def storage(self):
        self._alive()
        return copy.deepcopy(self.state["storage"])

    def store(self, name, parts):
        with self._write():
            self.state["storage"][name] = copy.deepcopy(parts)

    def write(self, text, annotations, version=None):
        if version is not None and version != self.config_map()["metadata"]["resourceVersion"]:
            raise ChangedMeanwhile("somebody else changed the deployment file meanwhile: run this again")
        with self._write():
            self.state.update(file=text, annotations=dict(annotations), revision=self.state["revision"] + 1)

    def unready(self) -> str:
        self._alive()
        if "ramp while pods start" in self.broken:
            self.ramp()
        return "shop-recommender is not Ready (Crash: exit 1)" if {"crash"} & self.broken and self.mounted(NEW) else ""

    def ramp(self) -> None:
        """Somebody starts an experiment by hand."""
        file = yaml.safe_load(self.state["file"])
        file["holdout"] = file.get("holdout", 0) + 0.1
        self.state.update(file=yaml.safe_dump(file), revision=self.state["revision"] + 1)

    def mounted(self, place: Place) -> bool:
        return all(dict(place.entry) in uris for parts in self.state["storage"].values() for uris in parts.values())

    def answer(self, session: str) -> dict[str, Any] | None:
        """Pods take up a file whose bundles they have; what runs goes on otherwise."""
        wanted = yaml.safe_load(self.state["file"])["variants"]
        if all(self.mounted(p) for p in (OLD, NEW, OTHER) if str(p.folder) in {v["bundle"] for v in wanted.values()}):
            self.state["taken"] = self.state["file"]
        left = int(session[-4:], 16) / 65_536
        variants = yaml.safe_load(self.state["taken"])["variants"]
        for name, variant in variants.items():
            left -= variant["share"]
            if left < 0:
                chosen = name
                break
        version = VERSIONS[variant["bundle"]]
        if not self.mounted(next(p for p in (OLD, NEW, OTHER) if str(p.folder) == variant["bundle"])):
            return None
        level = "unranked" if version in self.broken else "full"
        self.lists.append(
            {"items": [1], "level": level, "variant": chosen, "model_version": version, "cause": "ranker"}
        )
        return self.lists[-1]

    def _alive(self) -> None:
        if self.state["dies_at"] is not None and self.state["writes"] >= self.state["dies_at"]:
            raise Killed

    def _write(self):
        world = self

        class Counted:
            def __enter__(self):
                world._alive()

            def __exit__(self, *_):
                world.state["writes"] += 1
                world._alive()  # the answer never reaches who asked

        return Counted()


def deploy(
    world: World, place: Place = NEW, variant: str = "champion", share: float = 0.0, patience: Patience = PATIENCE
) -> list[str]:
    said: list[str] = []
    with recommender(world.answer) as url:
        roll_out(
            world, place, variant, share, Wanted(variant, VERSIONS[str(place.folder)]), "7", url, patience, said.append
        )
    return said


def served(world: World) -> dict[str, tuple[str, float]]:
    world.answer("0" * 4)
    taken = yaml.safe_load(world.state["taken"])["variants"]
    return {name: (VERSIONS[v["bundle"]], v["share"]) for name, v in taken.items()}


def test_a_version_takes_over_without_anybody_getting_less_and_what_served_stays_mounted():
    world = World.of(("champion", OLD, 1.0))
    said = deploy(world)
    assert served(world) == {"champion": ("v-new", 1.0)}
    assert said[-1] == "version 7 serves as champion (100% of the people)"
    assert world.mounted(OLD) and world.mounted(NEW)
    assert world.state["annotations"] == {DEPLOYED: "7"}
    assert {answer["level"] for answer in world.lists} == {"full"}
    writes = world.state["writes"]
    assert deploy(world)[0] == "champion serves version 7 already"
    assert world.state["writes"] == writes + 1, "nothing but the note of what serves"
    deploy(world, OTHER)
    assert world.mounted(NEW) and world.mounted(OTHER) and not world.mounted(OLD), "two bundles, never more"


def test_going_back_to_what_is_still_mounted_needs_no_new_pods():
    world = World.of(("champion", OLD, 1.0))
    deploy(world)
    storage = copy.deepcopy(world.state["storage"])
    deploy(world, OLD)
    assert served(world) == {"champion": ("v-old", 1.0)} and world.state["storage"] == storage


def test_a_challenger_takes_its_share_from_the_champion_and_keeps_it():
    world = World.of(("champion", OLD, 1.0))
    deploy(world, NEW, "challenger", 0.2)
    assert served(world) == {"champion": ("v-old", 0.8), "challenger": ("v-new", 0.2)}
    deploy(world, OTHER, "challenger", 0.5)
    assert served(world) == {"champion": ("v-old", 0.8), "challenger": ("v-other", 0.2)}
    with pytest.raises(InvalidInput, match=r"share=0.9: champion has 0.8 to give"):
        deploy(world, NEW, "third", 0.9)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("crash", "shop-recommender is not Ready (Crash: exit 1)"),  # the pods never come up
        ("v-new", "a list was unranked (ranker)"),  # all is Ready, and yet the lists are not full
    ],
)
def test_what_does_not_prove_itself_is_put_back_with_one_line(broken, said):
    world = World.of(("champion", OLD, 1.0))
    before = copy.deepcopy({k: world.state[k] for k in ("file", "annotations", "storage")})
    world.broken.add(broken)
    with pytest.raises(NotDeployed) as error:
        deploy(world, patience=HASTE)
    assert str(error.value) == f"version 7 was not deployed: {said}; what served before serves again"
    assert {k: world.state[k] for k in before} == before
    assert served(world) == {"champion": ("v-old", 1.0)}


def test_it_says_so_when_what_served_does_not_answer_either():
    world = World.of(("champion", OLD, 1.0))
    world.broken.update({"v-new", "v-old"})
    with pytest.raises(NotDeployed, match=r"what served before was put back, but a list was unranked"):
        deploy(world, patience=HASTE)


def test_when_the_cluster_is_away_it_says_what_to_do():
    world = World.of(("champion", OLD, 1.0))
    world.broken.add("v-new")
    write = World.write

    def away(self, text, annotations, version=None):
        if BEFORE not in annotations:
            raise Unavailable("the Kubernetes API answered 503")
        write(self, text, annotations, version)

    type(world).write = away
    try:
        with pytest.raises(
            NotDeployed, match=r"could not be put back \(the Kubernetes API answered 503\): run this again"
        ):
            deploy(world, patience=HASTE)
    finally:
        type(world).write = write
    world.broken.clear()
    deploy(world)
    assert served(world) == {"champion": ("v-new", 1.0)} and world.state["annotations"] == {DEPLOYED: "7"}


def test_what_somebody_else_wrote_meanwhile_stays():
    world = World.of(("champion", OLD, 1.0))
    world.broken.add("ramp while pods start")
    with pytest.raises(ChangedMeanwhile, match="run this again"):
        deploy(world)
    world.broken.clear()
    deploy(world)
    file = yaml.safe_load(world.state["file"])
    assert file["holdout"] == 0.1 and served(world) == {"champion": ("v-new", 1.0)}
    world.broken.add("v-other")
    answer, asked = World.answer, []

    def ramped(self, session):
        asked.append(session)
        if len(asked) == 3:
            self.ramp()
        return answer(self, session)

    type(world).answer = ramped
    try:
        with pytest.raises(NotDeployed, match="meanwhile: it is left as it is"):
            deploy(world, OTHER, patience=HASTE)
    finally:
        type(world).answer = answer


@pytest.mark.parametrize("then", [NEW, OTHER], ids=["the same again", "another version"])
@pytest.mark.parametrize("dies_at", range(5))
def test_a_run_that_was_killed_at_any_write_is_finished_by_the_next(dies_at, then):
    world = World.of(("champion", OLD, 1.0))
    world.state["dies_at"] = dies_at
    with pytest.raises(Killed):
        deploy(world)
    assert served(world)["champion"][0] in ("v-old", "v-new")
    world.state["dies_at"] = None
    deploy(world, then)
    assert served(world) == {"champion": (VERSIONS[str(then.folder)], 1.0)}
    assert BEFORE not in world.state["annotations"]
    assert {answer["level"] for answer in world.lists} == {"full"}


def test_a_killed_run_whose_version_is_bad_goes_back_to_what_served_before_it():
    world = World.of(("champion", OLD, 1.0))
    world.state["dies_at"] = 3  # the file names the new version, which nobody has proved
    with pytest.raises(Killed):
        deploy(world)
    assert BEFORE in world.state["annotations"]
    world.state["dies_at"] = None
    world.broken.add("v-new")
    with pytest.raises(NotDeployed, match="what served before serves again"):
        deploy(world, patience=HASTE)
    assert served(world) == {"champion": ("v-old", 1.0)}


def test_a_version_that_the_gate_holds_back_needs_somebody_who_promotes_it(tmp_path):
    registry = Registry(tmp_path / "mlflow")
    for name, held in (("a", ""), ("b", "it may be worse")):
        registry.register(write_bundle(tmp_path / name, name), {"ndcg@10": 0.2}, {}, "", "", held=held)
    given = {"registry": str(tmp_path / "mlflow"), "version": "2", "variant": "champion", "share": 0.0}
    where = {"namespace": "people", "release": "shop"}
    with pytest.raises(InvalidInput, match=r"^version 2 is held back: it may be worse: `longtail registry promote` it"):
        deploy_version(**given, **where)
    registry.promote(2)
    with pytest.raises(InvalidInput, match="pods cannot fetch file://"):  # the next thing that is wrong
        deploy_version(**given, **where)


def test_where_bundles_lie_in_pods():
    claim = Place.of("pvc://bundles/models/7")
    assert dict(claim.entry) == {"uri": "pvc://bundles", "mountPath": "/mnt/claims/bundles"}
    assert claim.folder == Path("/mnt/claims/bundles/models/7")
    assert dict(NEW.entry)["uri"] == NEW.uri and re.fullmatch(r"/mnt/models/[0-9a-f]{8}", str(NEW.folder))
    with pytest.raises(InvalidInput, match="pods cannot fetch mlflow-artifacts:/0/a/bundle: say where"):
        Place.of("mlflow-artifacts:/0/a/bundle")


def test_the_registry_s_address_becomes_the_pods_address():
    assert visible("mlflow-artifacts:/0/a/bundle", "mlflow-artifacts:/=s3://b/m") == "s3://b/m/0/a/bundle"
    assert visible("file:///mnt/registry/artifacts/1", "file:///mnt/registry=pvc://reg") == "pvc://reg/artifacts/1"
    assert visible("gs://b/1", "") == "gs://b/1"
    with pytest.raises(InvalidInput, match="does not begin with"):
        visible("gs://b/1", "mlflow-artifacts:/=s3://b/m")
    with pytest.raises(InvalidInput, match="write PREFIX=ADDRESS"):
        visible("gs://b/1", "s3://b")


EXPERIMENT = """variants: {champion: {bundle: /mnt/models/a, share: 1}}
experiments:
  ranker-v2:
    salt: s
    slots: [[0, 100]]
    variants: {control: {share: 0.5}, treatment: {share: 0.5, bundle: /mnt/models/b}}
holdout: 0.05
"""


def test_an_experiment_goes_on_when_the_champion_changes():
    before = parse_yaml(EXPERIMENT, Deployment)
    after = parse_yaml(with_variant(before, "champion", NEW, 0.0).text, Deployment)
    assert (after.experiments, after.holdout) == (before.experiments, 0.05)
    assert after.bundles == [NEW.folder, Path("/mnt/models/b")]
    with pytest.raises(InvalidInput, match="experiments run beside champion: make challenger a variant of one"):
        with_variant(before, "challenger", NEW, 0.1)


def test_variants_that_are_not_touched_keep_their_bundles():
    before = Deployment(
        variants={"a": Variant(bundle=OLD.folder, share=0.7), "b": Variant(bundle=NEW.folder, share=0.3)}
    )
    after = with_variant(before, "b", OTHER, 0.9)
    assert [(n, v.bundle, v.share) for n, v in after.variants.items()] == [
        ("a", OLD.folder, 0.7),
        ("b", OTHER.folder, 0.3),
    ]
