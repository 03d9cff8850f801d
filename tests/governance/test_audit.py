"""The audit log: every alteration is found, two writers and a crash break nothing, and decisions find their way in."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from longtail.governance.audit import AuditLog, BrokenChain
from longtail.governance.rules import record_rules
from longtail.registry import Registry
from tests.registry.test_registry import write_bundle


@pytest.fixture
def log(tmp_path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    for version in range(1, 6):
        log.append("promotion", {"version": version}, who="a test")
    return log


def lines(log: AuditLog) -> list[str]:
    return log.path.read_text().splitlines(keepends=True)


def altered(line: str) -> str:
    return line.replace('"version":', '"version":9')


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda rows: [*rows[:2], altered(rows[2]), *rows[3:]], 3),
        (lambda rows: [*rows[:1], *rows[2:]], 2),
        (lambda rows: [*rows[:2], rows[1], *rows[2:]], 3),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], 2),
        (lambda rows: [*rows[:3], "{}\n", *rows[4:]], 4),
        (lambda rows: rows[1:], 1),
    ],
    ids=["altered", "removed", "twice", "swapped", "no entry", "first removed"],
)
def test_the_first_broken_entry_is_named(log, change, broken):
    log.path.write_text("".join(change(lines(log))))
    with pytest.raises(BrokenChain, match=f"entry {broken} breaks the chain") as found:
        log.verify()
    assert found.value.exit_code == 1


def test_an_entry_that_was_altered_with_its_hash_is_betrayed_by_the_next(log):
    rows = lines(log)
    entry = json.loads(rows[1]) | {"who": "somebody else"}
    other = AuditLog(log.path.with_name("other"))
    other.path.write_text(rows[0])
    forged = other.append("promotion", entry["about"], who=entry["who"])
    log.path.write_text("".join([rows[0], lines(other)[1], *rows[2:]]))
    assert forged.n == 2
    with pytest.raises(BrokenChain, match="entry 3"):
        log.verify()


def test_a_noted_head_finds_what_was_cut_off(log):
    head = log.verify().hash
    log.append("rollback", {"version": 4})
    assert log.verify(head).n == 6
    log.path.write_text("".join(lines(log)[:3]))
    assert log.verify().n == 3  # the chain alone cannot tell
    with pytest.raises(BrokenChain, match="removed from its end"):
        log.verify(head)


def test_half_an_entry_that_a_crash_left_was_never_made(log):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole.splitlines()[-1][:40])
    assert log.verify().n == 5
    assert log.append("rollback", {}).n == 6
    assert log.verify().n == 6


def test_nothing_is_added_to_a_log_whose_newest_entry_was_altered(log):
    log.path.write_text("".join([*lines(log)[:4], altered(lines(log)[4])]))
    with pytest.raises(BrokenChain):
        log.append("rollback", {})


def _writer(path: str, n: int) -> None:
    for k in range(n):
        AuditLog(path).append("promotion", {"version": k, "why": "x" * 500}, who=str(os.getpid()))


def test_many_writers_make_one_chain(tmp_path):
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_writer, args=(str(path), 40)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = list(AuditLog(path).entries())
    assert len(entries) == 160
    assert AuditLog(path).verify().n == 160
    assert len({entry.who for entry in entries}) == 4


def test_writers_that_are_killed_leave_a_whole_chain(tmp_path):
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    for _ in range(8):
        writers = [context.Process(target=_writer, args=(str(path), 10_000)) for _ in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(0.05)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    AuditLog(path).append("rollback", {})
    last = AuditLog(path).verify()
    assert last.action == "rollback"
    assert last.n > 8


def test_what_fails_is_recorded_as_failed(log):
    with pytest.raises(OSError, match="full"), log.recording("deployment", {"bundle": "b"}):
        raise OSError("disk full")
    assert [(e.action, e.about) for e in list(log.entries())[5:]] == [
        ("deployment", {"bundle": "b"}),
        ("failure", {"of": 6, "why": "OSError: disk full"}),
    ]


def test_the_registry_records_who_made_which_version_champion(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_ACTOR", "ada")
    registry = Registry(tmp_path / "mlflow")
    for name, ndcg, held in (("first", 0.2, ""), ("better", 0.3, ""), ("held", 0.4, "its log says worse")):
        bundle = write_bundle(tmp_path / name, name)
        registry.register(bundle, {"ndcg@10": ndcg}, {}, "", "f00d", held=held)
    registry.rollback()
    registry.promote(3)
    told = [(e.action, e.who, e.about["version"], e.about["instead_of"]) for e in registry.audit.entries()]
    assert told == [
        ("promotion", "the gate", 1, None),
        ("promotion", "the gate", 2, 1),
        ("rollback", "ada", 1, 2),
        ("override", "ada", 3, 1),
    ]
    assert "its log says worse" in list(registry.audit.entries())[3].about["decision"]
    assert registry.audit.verify().n == 4


def test_a_change_of_the_rules_is_recorded_once_with_what_changed(log, tmp_path):
    old = {"rules": {"caps": {"category": 4}, "block": []}}
    new = {"rules": {"caps": {"category": 2}, "block": [{"brand": "Recalled"}]}}
    file = tmp_path / "surfaces.yaml"
    assert record_rules(log, file, old)
    assert not record_rules(log, file, old)  # a server that starts again
    assert record_rules(log, file, new, old)
    assert not record_rules(log, file, new, old)  # another replica sees the same change
    about = list(log.entries())[-1].about
    assert about["changed"] == {
        "rules.block": ["[]", '[{"brand": "Recalled"}]'],
        "rules.caps.category": ["4", "2"],
    }


def test_the_command_verifies_and_lists(log):
    def audit(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "longtail.cli", "audit", *words, str(log.path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = audit("verify")
    assert done.returncode == 0
    assert f"5 entries, whole; head {log.verify().hash}" in done.stdout
    assert audit("list").stdout.count("promotion") == 5
    rows = lines(log)
    log.path.write_text("".join([*rows[:2], altered(rows[2]), *rows[3:]]))
    done = audit("verify")
    assert (done.returncode, done.stdout) == (1, "")
    assert "entry 3 breaks the chain" in done.stderr
