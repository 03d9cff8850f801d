"""The local runner on a pipeline of two tiny steps."""

import io
from pathlib import Path

import pytest
from kfp import dsl
from rich.console import Console

from pipelines.local import StepFailed, UserMistake, run
from pipelines.progress import shown

component = dsl.component(base_image="python:3.11", install_kfp_package=False, packages_to_install=[])


@component
def count(upto: int, mood: str, numbers: dsl.Output[dsl.Dataset]):
    import os
    import sys

    os.makedirs(numbers.path)
    open(os.path.join(numbers.path, "half"), "w").close()
    print(f"counting to {upto}")
    if mood == "mistaken":
        from longtail.errors import InvalidInput

        raise InvalidInput("upto is wrong: give a smaller one")
    if mood == "broken":
        sys.exit("boom")
    with open(os.path.join(numbers.path, "all"), "w") as file:
        file.write(" ".join(str(n) for n in range(upto)))


@component
def copy(numbers: dsl.Input[dsl.Dataset], target: str):
    import os

    with open(os.path.join(numbers.path, "all")) as source, open(target, "w") as file:
        file.write(source.read())


@dsl.pipeline(name="tiny")
def tiny(target: str, upto: int = 3, mood: str = ""):
    counted = count(upto=upto, mood=mood)
    copy(numbers=counted.outputs["numbers"], target=target).set_caching_options(False)


def events(target: Path, out: Path, **arguments) -> list[tuple[str, str, str]]:
    seen = []
    run(tiny, {"target": str(target), **arguments}, out, lambda *event: seen.append(event))
    return seen


def test_steps_run_in_order_and_a_second_run_reuses_what_is_done(tmp_path):
    out, target = tmp_path / "out", tmp_path / "target"
    assert events(target, out) == [
        ("started", "count", ""),
        ("said", "count", "counting to 3"),
        ("SUCCESS", "count", ""),
        ("started", "copy", ""),
        ("SUCCESS", "copy", ""),
    ]
    assert target.read_text() == "0 1 2"
    target.unlink()
    second = events(target, out)
    assert ("reused", "count", "") in second
    assert ("started", "count", "") not in second
    assert target.read_text() == "0 1 2"
    assert ("said", "count", "counting to 4") in events(target, out, upto=4)


def test_changed_data_is_read_again_by_a_step_that_may_be_reused(tmp_path):
    data, target, seen = tmp_path / "data", tmp_path / "target", []

    def copies(text: str | None = None) -> int:
        if text:
            data.write_text(text)
        seen.clear()
        arguments = {"target": str(target)}
        run(tiny, arguments, tmp_path / "out", lambda *event: seen.append(event), [data], reusable=["copy"])
        return seen.count(("started", "copy", ""))

    assert [copies("one"), copies(), copies("other"), copies()] == [1, 0, 1, 0]
    assert len(list((tmp_path / "out" / "steps").iterdir())) == 1  # the run that nothing points to is gone
    assert not tiny.pipeline_spec.root.dag.tasks["copy"].caching_options.enable_cache


def test_a_mistake_in_a_step_is_one_line_and_leaves_nothing_half_written(tmp_path):
    out, seen = tmp_path / "out", []
    with pytest.raises(UserMistake, match=r"^upto is wrong: give a smaller one$"):
        run(tiny, {"target": "", "mood": "mistaken"}, out, lambda *event: seen.append(event))
    assert [text for event, _, text in seen if event == "said"] == ["counting to 3"], "the traceback is for the log"
    assert "Traceback" in (out / "pipeline.log").read_text()
    assert list((tmp_path / "out" / "steps").iterdir()) == []


def test_a_broken_step_names_itself_and_the_log(tmp_path):
    with pytest.raises(StepFailed, match=r"step count failed: read .*pipeline\.log"):
        events(tmp_path / "target", tmp_path / "out", mood="broken")
    assert "boom" in (tmp_path / "out" / "pipeline.log").read_text()


def test_progress_is_plain_lines_without_a_terminal():
    text = io.StringIO()
    with shown(2, Console(file=text)) as report:
        report("started", "train-ranker", "")
        report("said", "train-ranker", "window [1/4]")
        report("SUCCESS", "train-ranker", "")
        report("reused", "ingest", "")
    lines = text.getvalue().splitlines()
    assert lines[:2] == ["train ranker: started", "train ranker: window [1/4]"]
    assert "train ranker" in lines[2]
    assert "done before" in lines[3]
