import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.reranking import Rules
from tests.reranking.shop import catalogue

GOOD = """
filters:
  exclude_bought: true
caps: {category: 4, brand: 3, within: 10}
diversity:
  lambda: 0.8
freshness: {strength: 0.3, half_life_days: 10}
exploration: {epsilon: 0.05, skip_first: 2}
boosts:
  - {name: spring, category: kitchen, factor: 1.3, start: 2026-03-01, end: 2026-05-01T12:00:00+02:00}
block:
  - items: ["i3", "gone"]
  - brand: nobody
"""


def load(tmp_path, text):
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return Rules.load(path)


def members(bound, target):
    """Item indices of a bound target."""
    return np.flatnonzero(bound.words[target.word] & target.bit)


def test_a_good_file_is_read_and_bound(tmp_path):
    rules = load(tmp_path, GOOD)
    assert (rules.filters.exclude_bought, rules.filters.exclude_seen) == (True, False)
    assert rules.diversity.weight == 0.8 and rules.caps.within == 10
    shop = catalogue(20)
    bound = rules.bind(shop)
    [boost] = bound.boosts
    assert (boost.name, np.exp(boost.log_factor)) == ("spring", pytest.approx(1.3))
    assert set(shop.frame["category"][members(bound, boost.target)]) == {"kitchen/knives", "kitchen/pans"}
    assert (boost.target.span.start, boost.target.span.end) == (1_772_323_200_000_000, 1_777_629_600_000_000)
    assert members(bound, bound.block[0]).tolist() == [3]
    assert bound.unmatched == ["block[1]"]


def test_rules_written_out_read_back_the_same(tmp_path):
    rules = load(tmp_path, GOOD)
    assert load(tmp_path, rules.to_yaml()) == rules
    assert load(tmp_path, Rules().to_yaml()) == Rules()


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load(tmp_path, "") == load(tmp_path, "# nothing\n") == Rules()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("caps:\n  brand: 0\n", 2, "caps.brand: Input should be greater than or equal to 1"),
        ("caps:\n  brand: 2\n  colour: 3\n", 3, "caps.colour: unknown key"),
        ("\nfilter: {}\n", 2, "filter: unknown key"),
        ("caps: {brand: 1}\ncaps: {brand: 2}\n", 2, "caps: repeated, first on line 1"),
        ("boosts:\n- {name: a, category: x, factor: 2}\n- name: b\n  category: x\n", 3, "boosts[1].factor: missing"),
        ("boosts:\n- {name: a, category: x, brand: y, factor: 2}\n", 2, "exactly one of category, brand, items"),
        ("block:\n- items: [00123]\n", 2, 'put it in "quotes"'),
        ("block:\n- {brand: a, start: 2026-02-02, end: 2026-02-01}\n", 2, "start must be before end"),
        ("diversity:\n  lambda: 1.5\n", 2, "diversity.lambda"),
        ("caps: {brand: 1\nfilters:\n", 2, "not valid YAML"),
        ("- a\n- b\n", 1, "expected keys and values"),
        ("exploration:\n  epsilon: .nan\n", 2, "exploration.epsilon"),
        ("block: !!python/name:os.system\n", 1, "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(tmp_path, text, line, says):
    with pytest.raises(InvalidInput) as error:
        load(tmp_path, text)
    assert f"rules.yaml line {line}: " in str(error.value)
    assert says in str(error.value)


def test_every_mistake_of_a_file_is_listed(tmp_path):
    with pytest.raises(InvalidInput) as error:
        load(tmp_path, "caps: {brand: 0}\nnonsense: 1\n")
    assert len(str(error.value).splitlines()) == 2


def test_a_file_that_is_missing_or_not_text_is_one_line(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        Rules.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Rules.load(tmp_path / "b.yaml")
