from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from longtail.errors import InvalidInput
from longtail.reranking import Rules
from longtail.surfaces import Surfaces
from longtail.surfaces.builtin import BUILTIN
from tests.reranking.shop import catalogue

SHOP = catalogue(60)
SOURCES = ["ease", "content", "item_knn", "copurchase", "popular"]


def test_without_a_file_a_shop_has_seven_surfaces():
    bound = Surfaces.default().bind(SHOP, SOURCES)
    assert sorted(bound) == [
        "because_you_viewed", "bought_together", "cart", "category_page", "email", "homepage", "similar_items",
    ]  # fmt: skip
    assert bound.warnings == []
    home, similar, together = bound["homepage"], bound["similar_items"], bound["bought_together"]
    assert (home.k, home.weights, home.order, home.anchor) == (20, None, "ranker", "none")
    assert (similar.order, similar.anchor, similar.weights.tolist()) == ("blend", "items", [0, 1, 1, 0, 0])
    assert together.weights.dtype == np.float32 and together.weights.tolist() == [0, 0, 0.25, 1, 0]
    assert bound["because_you_viewed"].anchor == "last_viewed"
    assert bound["category_page"].within == "category"
    assert bound["email"].made == "precomputed"


def test_an_unknown_surface_is_answered_with_those_there_are():
    bound = Surfaces.default().bind(SHOP, SOURCES)
    with pytest.raises(InvalidInput, match="'hompage'.*cart.*homepage"):
        bound["hompage"]
    assert "hompage" not in bound and "homepage" in bound


def test_an_entry_changes_single_keys_of_a_built_in_surface_and_leaves_the_others():
    file = Surfaces.parse("surfaces:\n  similar_items: {k: 5}\n  homepage:\n  mine: {k: 3}\n")
    assert set(file.surfaces) == {*BUILTIN, "mine"}
    similar = file.surfaces["similar_items"]
    assert (similar.k, similar.anchor, similar.order) == (5, "items", "blend")
    assert file.surfaces["homepage"] == Surfaces.default().surfaces["homepage"]


def test_other_sources_do_not_inherit_the_built_in_factors():
    file = Surfaces.parse("surfaces:\n  bought_together: {sources: [ease]}\n")
    assert file.bind(SHOP, SOURCES)["bought_together"].weights.tolist() == [1, 0, 0, 0, 0]


def test_sources_that_a_bundle_lacks_are_left_out_and_named():
    file = Surfaces.parse(
        "surfaces:\n  homepage: {sources: [ease, graph]}\n  cart: {sources: [graph]}\n"
        "  mine: {blend: {popular: 0.5, graph: 2}}\n"
    )
    bound = file.bind(SHOP, SOURCES)
    assert bound["homepage"].weights.tolist() == [1, 0, 0, 0, 0]
    assert bound["cart"].weights is None
    assert bound["mine"].weights.tolist() == [1, 1, 1, 1, 0.5]
    assert bound.warnings == [
        "homepage: the bundle has no source graph",
        "cart: the bundle has no source graph: all sources are asked instead",
        "mine: the bundle has no source graph",
    ]


def test_a_surface_replaces_sections_of_the_rules_but_never_unblocks():
    file = Surfaces.parse(
        """
rules:
  caps: {brand: 2, category: 3}
  exploration: {epsilon: 0.1}
  block: [{brand: acme}]
surfaces:
  email:
    rules:
      caps: {brand: 5}
      block: [{brand: bolt}]
"""
    )
    home, email = file.rules_of("homepage"), file.rules_of("email")
    assert home == file.rules
    assert (email.caps.brand, email.caps.category, email.exploration.epsilon) == (5, None, 0.1)
    assert [b.brand for b in email.block] == ["acme", "bolt"]


def test_rules_that_match_nothing_are_named_with_their_surface():
    file = Surfaces.parse(
        'surfaces:\n  email:\n    rules:\n      pins: [{name: gift, items: ["gone"], place: 1}]\n'
        "      promotions: [{name: own, brand: nobody, every: 4}]\n"
    )
    assert file.bind(SHOP, SOURCES).warnings == [
        "email: pin gift matches no item", "email: promotion own matches no item",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("surfaces:\n  homepage:\n    kk: 3\n", 3, "surfaces.homepage.kk: unknown key"),
        ("surfaces:\n  homepage:\n    k: 0\n", 3, "surfaces.homepage.k: Input should be greater"),
        ("surfaces:\n  homepage: 7\n", 2, "surfaces.homepage: "),
        ("surfaces: [homepage]\n", 1, "surfaces: "),
        ("\nsurface: {}\n", 2, "surface: unknown key"),
        ("surfaces:\n  my page: {}\n", 2, "surfaces.my page"),
        ("surfaces:\n  a: {sources: []}\n", 2, "surfaces.a.sources"),
        ("surfaces:\n  a:\n    sources: [x]\n    blend: {y: 2}\n", 2, "blend names y"),
        ("surfaces:\n  a: {sources: [x], blend: {x: 0}}\n", 2, "nothing would be proposed"),
        ("surfaces:\n  a: {blend: {x: -1}}\n", 2, "surfaces.a.blend.x"),
        ("surfaces:\n  a:\n    objective:\n      goal: money\n", 4, "surfaces.a.objective.goal"),
        (
            "surfaces:\n  a:\n    objective:\n      goal:\n        clicks: 1\n        fame: 2\n",
            6,
            "surfaces.a.objective.goal.fame: Input should be 'clicks', 'conversion'",
        ),
        ("surfaces:\n  a:\n    objective:\n      goal: {clicks: -1}\n", 4, "surfaces.a.objective.goal.clicks: "),
        ("surfaces:\n  a:\n    objective:\n      goal: {}\n", 4, "surfaces.a.objective.goal: "),
        ("surfaces:\n  a: {made: precomputed, anchor: items}\n", 2, "knows no request"),
        ("surfaces:\n  a:\n    rules:\n      caps:\n        brand: 0\n", 5, "surfaces.a.rules.caps.brand"),
        ("surfaces:\n  a: {k: 1}\n  a: {k: 2}\n", 3, "surfaces.a: repeated, first on line 2"),
        ("rules:\n  pins:\n  - {name: p, items: [], place: 1}\n", 3, "rules.pins[0].items"),
        ("rules:\n  promotions:\n  - {name: p, every: 3}\n", 3, "give a category, a brand, or items"),
        ("rules:\n  promotions:\n  - {name: p, every: 3, brand: a, category: b}\n", 3, "not both"),
        ("rules:\n  pins:\n  - {name: p, items: [a], place: 1, start: 2026-02-02, end: 2026-02-02}\n", 3, "before end"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(tmp_path, text, line, says):
    path = tmp_path / "surfaces.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as error:
        Surfaces.load(path)
    assert f"surfaces.yaml line {line}: " in str(error.value)
    assert says in str(error.value)


def test_surfaces_written_out_read_back_the_same():
    file = Surfaces.load(EXAMPLE)
    assert Surfaces.parse(file.to_yaml()) == file
    assert Surfaces.parse(Surfaces.default().to_yaml()) == Surfaces.default() == Surfaces.parse("")


EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "surfaces.yaml"


def models_below(model):
    """The pydantic models that a model's fields are made of, itself included."""
    found, todo = {model}, [model]
    while todo:
        for name, field in todo.pop().model_fields.items():
            stack = [field.annotation]
            while stack:
                kind = stack.pop()
                stack += getattr(kind, "__args__", ())
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
                    found.add(kind)
                    todo.append(kind)
            assert name
    return found


def test_the_documented_example_is_valid_and_shows_every_key():
    text = EXAMPLE.read_text(encoding="utf-8")
    file = Surfaces.load(EXAMPLE)
    written = set()

    def collect(node):
        if isinstance(node, dict):
            written.update(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(child)

    collect(yaml.safe_load(text))
    for model in models_below(Surfaces):
        for name, field in model.model_fields.items():
            assert (field.alias or name) in written, f"{model.__name__}.{name} is not in docs/surfaces.yaml"
    assert all(name in text for name in BUILTIN)
    for name in ("filters", "caps", "diversity", "freshness", "exploration"):
        section = getattr(file.rules, name)
        assert section.model_fields_set == set(type(section).model_fields), name
    assert file.rules_of("email").caps.category == 2 and file.rules_of("homepage").caps.category == 4
    assert isinstance(file.rules, Rules)


def test_the_example_in_the_readme_is_valid():
    text = (EXAMPLE.parents[1] / "README.md").read_text(encoding="utf-8")
    block = text.split("## Surfaces")[1].split("```yaml")[1].split("```")[0]
    file = Surfaces.parse(block)
    assert file.rules.pins[0].place == 3 and file.surfaces["email"].k == 12
