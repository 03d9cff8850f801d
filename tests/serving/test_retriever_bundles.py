"""Which bundles a retriever holds while its deployment file changes."""

from __future__ import annotations

import asyncio
import json
import shutil

import numpy as np
import pytest

from longtail.engine.deployment import Deployment, DeploymentWatch
from longtail.errors import InvalidBundle, InvalidInput
from longtail.events import Histories, Requests
from serving.retriever.bundles import KEEP_S, Bundles


@pytest.fixture(scope="module")
def folders(bundle_folder, tmp_path_factory):
    """A bundle, an equal one of another version, and one that was altered."""
    root = tmp_path_factory.mktemp("bundles")
    out = [bundle_folder.resolve()]
    for name in ("other", "altered"):
        copy = shutil.copytree(bundle_folder, root / name)
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["version"] += f"-{name}"
        (copy / "manifest.json").write_text(json.dumps(manifest))
        out.append(copy)
    (out[2] / "fallback.json").write_text("{}")
    return out


def version(folder) -> str:
    return json.loads((folder / "manifest.json").read_text())["version"]


def newcomer() -> Requests:
    return Requests(np.array([2**50]), np.array([-1], np.int32), np.array([-1], np.int32), Histories.empty(1))


async def until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came")


def test_a_new_bundle_is_held_beside_the_old_one_until_nobody_asks_for_that(folders, tmp_path):
    first, second, altered = folders
    now = [0.0]
    file = tmp_path / "deployment.yaml"
    Deployment.single(first).save(file)
    watch, held = DeploymentWatch(file), Bundles(lambda: now[0])
    held.start(watch.changed())

    async def live() -> None:
        task = asyncio.create_task(held.follow(watch, every_s=0.02))
        try:
            Deployment.single(second).save(file)
            await until(lambda: len(held.versions) == 2)
            old, new = held.find(version(first)), held.find(version(second))
            assert old.retriever.candidates(newcomer(), 5).items.tolist() == (
                new.retriever.candidates(newcomer(), 5).items.tolist()
            )
            now[0] = KEEP_S  # asked for at 0: not yet over it
            await asyncio.sleep(0.1)
            assert held.versions == [version(first), version(second)]
            held.find(version(first))  # somebody did not take the new one
            now[0] = 1.5 * KEEP_S
            await asyncio.sleep(0.1)
            assert len(held.versions) == 2
            now[0] = 2.5 * KEEP_S
            await until(lambda: held.versions == [version(second)])
            assert held.find(version(first)) is None and held.find(None).version == version(second)

            Deployment.single(altered).save(file)
            await asyncio.sleep(0.5)
            file.write_text("variants: nothing")
            await asyncio.sleep(0.2)
            now[0] = 9 * KEEP_S
            await asyncio.sleep(0.1)
            assert held.versions == [version(second)]  # the last one stays
        finally:
            task.cancel()

    asyncio.run(live())


def test_it_does_not_start_with_nothing_to_serve(folders, tmp_path):
    with pytest.raises(InvalidBundle, match="was altered"):
        Bundles().start(Deployment.single(folders[2]))
    with pytest.raises(InvalidInput):
        Bundles().start(DeploymentWatch(tmp_path / "none.yaml").changed())
