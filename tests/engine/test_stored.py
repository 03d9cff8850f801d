"""The catalogue in a bundle's arrays says what the catalogue in memory says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from longtail.engine.parts import Bundle, open_catalogue, write_catalogue
from longtail.engine.stored import StoredCatalogue
from longtail.errors import InvalidBundle
from longtail.events import Catalogue
from longtail.features.definitions import ITEM_SNAPSHOT
from longtail.reranking import ItemView

IDS = ["b", "a", "ü-1", "long-" * 9, "c"]


def catalogue() -> Catalogue:
    frame = pd.DataFrame(
        {
            "item_id": IDS, "title": ["Bé", None, "", "four", "five"], "category": ["x/y", "x", None, "z", "x/y"],
            "brand": ["n", None, "m", "n", "n"], "price": [1.0, np.nan, 3.0, 4.0, 5.0], "min_age": [0, 18, 0, 0, 0],
            "in_stock": [True, False, True, True, True], "regions": [None, ["south"], [], ["north", "south"], None],
            "created_at": pd.to_datetime(["2024-01-01", None, "2024-01-03", None, None], utc=True),
        }
    )  # fmt: skip
    return Catalogue.from_frame(frame)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    snapshot = {name: np.zeros(len(IDS), np.int64) for name in ITEM_SNAPSHOT} | {"n_all": np.array([1, 5, 2, 5, 0])}
    write_catalogue(tmp_path, catalogue(), snapshot, 77, sp.csr_matrix((len(IDS), 3), dtype=np.float32))
    return tmp_path


def test_what_is_stored_is_what_was_there(folder: Path) -> None:
    (found, items), made = open_catalogue(folder), catalogue()
    assert len(found) == len(items) == len(made) and found.as_of == 77
    assert found.ids_of(np.array([2, 0])) == ["ü-1", "b"] and found.item_ids.tolist() == IDS
    assert [found.title(n) for n in range(5)] == ["Bé", "", "", "four", "five"]
    assert found.find([*IDS, "nobody", "long-", ""]).tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert found.by_interactions.tolist() == [1, 3, 2, 0, 4]
    view = ItemView.from_catalogue(made)
    assert found.view.region_codes == view.region_codes
    for name in ("category", "top_category", "brand", "in_stock", "min_age", "regions", "everywhere", "created_us",
                 "price", "margin"):  # fmt: skip
        np.testing.assert_array_equal(getattr(found.view, name), getattr(view, name))
    for name in ("categories", "top_categories", "brands", "price", "created_us"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert found.frame["title"].tolist() == made.frame["title"].tolist()


def test_arrays_that_do_not_fit_are_refused(folder: Path) -> None:
    np.save(folder / "catalogue" / "arrays" / "price.npy", np.zeros(3, np.float32))
    with pytest.raises(InvalidBundle, match="different lengths"):
        open_catalogue(folder)
    (folder / "catalogue" / "arrays" / "price.npy").write_bytes(b"nonsense")
    with pytest.raises(InvalidBundle, match="cannot be read"):
        open_catalogue(folder)


def test_a_bundle_of_before_is_read_as_it_is(bundle_folder: Path, tmp_path: Path) -> None:
    """Bundles without the arrays hold the content as csr and the snapshot: the arrays are made of them."""
    now = Bundle.open(bundle_folder)
    old = tmp_path / "old"
    shutil.copytree(bundle_folder / "catalogue", old / "catalogue")
    items = now.items
    content = (items.content_data, items.content_indices, items.content_indptr)
    sp.save_npz(old / "catalogue" / "content.npz", sp.csr_matrix(content))
    for name in ("arrays", "item_table"):
        shutil.rmtree(old / "catalogue" / name)
    assert StoredCatalogue.open(old / "catalogue") is None
    found, made = open_catalogue(old)
    assert found.as_of == now.as_of and found.item_ids.tolist() == now.catalogue.item_ids.tolist()
    np.testing.assert_array_equal(made.matrix, items.matrix)
    np.testing.assert_array_equal(made.facts, items.facts)
    np.testing.assert_array_equal(found.by_interactions, now.catalogue.by_interactions)
