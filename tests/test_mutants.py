"""Does every mutant of tests/mutants.py still find the one place that it changes, and the tests that should notice?"""

import subprocess

import pytest

from tests import mutants
from tests.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_place(mutant):
    text = (ROOT / "lora_jax" / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert all((ROOT / test).is_file() for test in mutant.tests)


@pytest.mark.parametrize(
    ("codes", "status", "said"),
    [
        ((0, 1), 0, "1 of 1 mutants killed"),
        ((0, 0), 1, "alive: scale forgotten in merge"),
        ((1,), 2, "these tests fail on the library as it is"),
        ((4,), 2, "pytest ended with code 4 on tests/test_merge.py"),
        ((0, 2), 2, "pytest ended with code 2 on tests/test_merge.py"),
    ],
)
def test_only_tests_that_fail_kill_and_only_where_they_pass_without(monkeypatch, tmp_path, capsys, codes, status, said):
    ends = iter(codes)
    (tmp_path / "lora_jax").mkdir()
    (tmp_path / "lora_jax/lowrank.py").touch()
    monkeypatch.setattr(mutants, "copied", lambda folder: tmp_path)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, next(ends), "", "")
    )
    assert mutants.main(["scale forgotten in merge"]) == status
    assert said in capsys.readouterr().out
    assert next(ends, None) is None
