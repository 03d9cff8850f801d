"""One pass of `longtail retrain`: finish what a crash left, read the signals, decide, run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from longtail.errors import InvalidInput, Unavailable
from longtail.monitoring.history import History
from longtail.retraining.decision import decide
from longtail.retraining.deploying import deploy
from longtail.retraining.launch import Outcome, Say, StillRunning, launch
from longtail.retraining.ledger import Ledger, Run
from longtail.retraining.lock import only_one
from longtail.retraining.policy import Policy, Servers

ATTEMPTS = 2  # a run that was cut off goes on once; cut off again, it is given up
DAYS = 60  # newest checked days that are read
LOCK = "retrain.lock"


def one_pass(
    policy: Policy, history: Path, ledger: Ledger, say: Say, now: Callable[[], float] = time.time
) -> Run | None:
    """What was done, as the ledger has it; None when there was nothing to do. `now` tells seconds since 1970.

    Raises:
        Busy: another pass, or a run that one started, is at it.
        InvalidInput: nothing was checked yet.
    """
    if not history.is_file():
        raise InvalidInput(f"{history} does not exist: run `longtail monitor` first, or name its folder")
    with only_one(ledger.path.with_name(LOCK), "longtail retrain") as lock:
        # The lock is ours, so nobody works on what is open here: a crash left it.
        if left := ledger.open_run():
            return _go_on(policy, ledger, left, lock, say, now)
        checks = History(history)
        days = checks.days()[-DAYS:]
        signals = checks.read(first=days[0]) if days else []
        decision = decide(policy, signals, ledger.past(now()), now())
        if decision.kept == "quiet":
            say(decision.reason)
            return None
        number = ledger.decide(decision, now())
        if decision.action in (None, "alert"):
            say(("alert: " if decision.action else "") + decision.reason)
            return _row(ledger, number)
        say(f"{decision.action}: {decision.reason}")
        return _see_to_its_end(policy, ledger, _row(ledger, number), lock, say, now)


def _go_on(policy: Policy, ledger: Ledger, left: Run, lock: int, say: Say, now: Callable[[], float]) -> Run:
    if left.state == "started":
        ledger.note(left.id, now(), "lost", "the process that saw to it ended without a word")
        if left.attempts >= ATTEMPTS and policy.run.where == "local":
            given_up = f"cut off {left.attempts} times and is given up"
            trained = f"{left.outcome}; not deployed: " if left.outcome else ""
            ledger.end(left.id, now(), "lost", f"{trained}it was {given_up}")
            say(f"run {left.id} ({left.action}) was {given_up}")
            return _row(ledger, left.id)
    say(f"run {left.id} ({left.action}) was cut off and goes on: {left.reason}")
    return _see_to_its_end(policy, ledger, left, lock, say, now)


def _see_to_its_end(policy: Policy, ledger: Ledger, run: Run, lock: int, say: Say, now: Callable[[], float]) -> Run:
    ledger.start(run.id, now())
    started = _row(ledger, run.id).started_at or now()
    servers = policy.run.deploy if policy.run.where == "local" else None
    try:
        if run.version is None:
            found = launch(
                policy.run, run.id, run.action, started, lock, lambda text: ledger.note(run.id, now(), "started", text)
            )
        else:  # what was cut off was its deployment
            found = Outcome(True, run.outcome, run.version, champion=True)
        if servers and found.version is not None and not found.champion:
            found = replace(found, told=f"{found.told}; not deployed: it is not the champion")
        elif servers and found.version is not None:
            if run.version is None:
                ledger.trained(run.id, now(), found.told, found.version, found.cpu_s)
            say(f"{found.told}: it is deployed now")
            found = _deployed(servers, policy.run.registry, found, found.version, lock)
    except (StillRunning, Unavailable) as error:
        say(str(error))
        return _row(ledger, run.id)
    except InvalidInput as error:
        found = Outcome(False, str(error))
    except KeyboardInterrupt:
        ledger.note(run.id, now(), "started", "it was told to stop: the next pass goes on with it")
        raise
    ledger.end(run.id, now(), "succeeded" if found.succeeded else "failed", found.told, found.version, found.cpu_s)
    say(f"{'done' if found.succeeded else 'failed'}: {found.told}")
    return _row(ledger, run.id)


def _deployed(servers: Servers, registry: str, trained: Outcome, version: int, lock: int) -> Outcome:
    """A run whose version people do not get has failed: what asked for it is not answered."""
    serves, told = deploy(servers, registry, version, lock)
    said = f"{trained.told}; {'deployed' if serves else 'not deployed'}: {told}"
    return replace(trained, succeeded=serves, told=said)


def _row(ledger: Ledger, number: int) -> Run:
    return next(run for run in ledger.runs() if run.id == number)
