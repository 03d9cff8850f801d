"""The committed YAML is what the pipelines compile to."""

import pytest

from pipelines import compile as compiling


@pytest.mark.parametrize("name", compiling.PIPELINES)
def test_the_committed_yaml_is_up_to_date(name):
    assert compiling.difference(name) == "", "run `make pipeline` and commit the result"


def test_a_stale_file_fails_the_check_and_is_rewritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    (tmp_path / "training.yaml").write_text("# PIPELINE DEFINITION\n")
    assert compiling.main(["--check"]) == 1
    assert "make pipeline" in capsys.readouterr().err
    assert compiling.main([]) == 0
    assert compiling.main(["--check"]) == 0
