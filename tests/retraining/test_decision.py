"""Which run the policy wants: confirmation, cooldown, budget, held data; mistakes in the file name line and key."""

import re
from pathlib import Path

import pytest

from longtail.errors import InvalidInput
from longtail.retraining.decision import DAY_S, Past, decide
from longtail.retraining.policy import Budget, Confirm, Cooldown, Kubeflow, Local, Policy, Rule, Servers
from longtail.yaml_model import parse_yaml
from tests.retraining.signals import RULES, day, policy, signal

DOCS = Path(__file__).resolve().parents[2] / "docs"


def drift(*fired: int, upto: int | None = None) -> list:
    last = upto or max(fired)
    return [signal("feature_drift", n, n in fired, "price") for n in range(1, last + 1)]


def test_one_bad_day_starts_nothing_and_two_of_three_do():
    assert decide(policy(), drift(5), [], 0).action is None
    found = decide(policy(), drift(3, 5), [], 0)
    assert (found.action, found.day, found.triggers[0].days) == ("incremental", day(5), (day(3), day(5)))
    assert "feature_drift (price) on 2024-03-03, 2024-03-05" in found.reason


def test_a_signal_that_calmed_down_by_itself_asks_for_nothing():
    assert decide(policy(), drift(3, 4, upto=5), [], 0).action is None


def test_days_of_different_features_do_not_confirm_each_other():
    signals = [signal("feature_drift", 4, True, "price"), signal("feature_drift", 5, True, "age")]
    signals += [signal("feature_drift", 5, False, "price"), signal("feature_drift", 4, False, "age")]
    assert decide(policy(), signals, [], 0).action is None


def test_the_larger_run_answers_the_smaller_one():
    signals = [*drift(4, 5), signal("index_age", 5)]
    found = decide(policy(), signals, [], 0)
    assert found.action == "incremental"
    assert {t.check for t in found.triggers} == {"feature_drift", "index_age"}
    answered = [Past("incremental", day(5), 0, 60, False)]
    assert decide(policy(), signals, answered, 10 * DAY_S).kept == "quiet"


def test_days_that_a_run_answered_are_no_evidence_for_the_next():
    past = [Past("incremental", day(5), 0, 60, False)]
    assert decide(policy(), drift(4, 5, 6), past, 10 * DAY_S).action is None
    assert decide(policy(), drift(4, 5, 6, 7), past, 10 * DAY_S).action == "incremental"
    smaller = [Past("refresh", day(5), 0, 60, False)]
    assert decide(policy(), drift(4, 5), smaller, 10 * DAY_S).action == "incremental"


@pytest.mark.parametrize(("failures", "waits"), [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16), (9, 16)])
def test_it_waits_after_a_run_and_longer_after_each_failure(failures, waits):
    runs = [Past("incremental", day(1), 0.0, 60, True) for _ in range(failures)] or [
        Past("incremental", day(1), 0.0, 60, False)
    ]
    early, late = ((waits - 0.1) * DAY_S, (waits + 0.1) * DAY_S)
    found = decide(policy(), drift(4, 5), runs, early)
    assert (found.action, found.kept) == (None, "cooldown")
    assert "waits for 0.1 days" in found.reason
    assert decide(policy(), drift(4, 5), runs, late).action == "incremental"


def test_the_budget_of_a_day():
    signals = [signal("index_age", 9)]
    spent = [Past("refresh", day(n), (n - 8) * 0.4 * DAY_S, 60, False) for n in (7, 8)]
    found = decide(policy(), signals, spent, 0.55 * DAY_S)
    assert found.kept == "budget"
    assert "2 of 2 runs" in found.reason
    long = [Past("refresh", day(8), 0, 13 * 3600, False)]
    assert decide(policy(), signals, long, 0.6 * DAY_S).kept == "budget"
    assert decide(policy(), signals, spent, 1.1 * DAY_S).action == "refresh"


def test_bad_data_is_told_and_never_trained_on():
    held = decide(policy(RULES.replace("[bot_traffic]", "[missing_values]")), [
        *drift(4, 5), signal("missing_values", 5, part="device")], [], 0)  # fmt: skip
    assert "is bad: missing_values (device): " in held.reason
    signals = [*drift(4, 5), signal("bot_traffic", 5)]
    found = decide(policy(), signals, [], 0)
    assert (found.action, found.kept) == (None, "held")
    assert "the data of 2024-03-05 is bad: bot_traffic" in found.reason
    only = decide(policy(), [signal("bot_traffic", 5)], [], 0)
    assert only.action == "alert"
    told = [Past("alert", day(5), 0, 0, False, frozenset({("bot_traffic", "")}))]
    assert decide(policy(), [signal("bot_traffic", 5)], told, 1).kept == "quiet"


def test_an_alert_about_one_thing_leaves_the_evidence_of_another():
    rules = RULES.replace("when: bot_traffic,", "when: model_age,").replace("do: incremental", "do: alert")
    signals = [signal("model_age", n) for n in (4, 5)] + drift(4, 5)
    told = [Past("alert", day(4), 0, 0, False, frozenset({("model_age", "")}))]
    found = decide(policy(rules), signals, told, 1)
    assert {(t.check, t.days) for t in found.triggers} == {
        ("model_age", (day(5),)),
        ("feature_drift", (day(4), day(5))),
    }


def test_what_is_measured_no_more_asks_for_nothing():
    gone = drift(1, 2, 3)  # a feature of a bundle that is gone
    assert decide(policy(), [*gone, *(signal("index_age", n, False) for n in range(1, 9))], [], 0).kept == "quiet"


def test_a_rule_may_ask_for_severity_and_part():
    text = RULES.replace("when: feature_drift,", "when: feature_drift, part: price, severity: critical,")
    assert decide(policy(text), drift(4, 5), [], 0).action is None
    severe = [signal("feature_drift", n, True, "price", "critical") for n in (4, 5)]
    assert decide(policy(text), severe, [], 0).action == "incremental"
    other = [signal("feature_drift", n, True, "age", "critical") for n in (4, 5)]
    assert decide(policy(text), other, [], 0).action is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("when: feature_drift", "when: feature_drft", "line 3: rules[0].when: no check is named 'feature_drft'"),
        ("days: 2, of: 3", "days: 4, of: 3", "line 3: rules[0].confirm: days (4) must not be more than of (3)"),
        ("do: refresh", "do: retrain", "line 4: rules[1].do"),
        ("budget: {runs: 2}", "budget: {run: 2}", "line 8: budget.run: unknown key"),
        ("hold: [bot_traffic]", "hold: [bots]", "line 6: hold: no check is named 'bots'"),
        ("run: {source: shop", "run: {where: kubeflow, source: shop", "run.kubeflow.platform: missing"),
    ],
)
def test_a_mistake_in_the_file_names_line_and_key(old, new, told):
    with pytest.raises(InvalidInput) as error:
        policy(RULES.replace(old, new))
    assert told in str(error.value)


def test_the_documented_file_is_valid_and_has_every_key():
    path = DOCS / "retraining.example.yaml"
    found = Policy.load(path)
    text = path.read_text()
    for model in (Policy, Rule, Confirm, Cooldown, Budget, Local, Servers, Kubeflow):
        for key in model.model_fields:
            assert re.search(rf"\b{key}:", text), key
    assert isinstance(found.run, Local)
    kubeflow = text[: text.index("run:\n")] + text[text.index("# run:") :].replace("\n# ", "\n").lstrip("# ")
    assert isinstance(parse_yaml(kubeflow, Policy).run, Kubeflow)
