"""Whole runs whose folder is in a bucket."""

import json

import pytest

from experiments.linear import study as linear
from tests.experiments.one_part import ONE_PART

SMOKE = ("--preset=smoke", "--accelerator=cpu", "--workdir=gs://bucket/runs")


@pytest.fixture(autouse=True)
def one_part(monkeypatch):
    monkeypatch.setitem(linear.PRESETS, "smoke", linear.Settings(ranks=(1, 4), seeds=2, steps=60, blocks=6, **ONE_PART))


def test_a_run_and_its_trace(orbax_bucket, run_entry):
    status, stdout, stderr = run_entry("linear_teacher.py", *SMOKE, "--profile")
    assert status == 0, stderr
    (run,) = (orbax_bucket / "runs").iterdir()
    trace = run / "profile" / "inputs"
    assert f"profile: gs://bucket/runs/{run.name}/profile/inputs" in stdout
    assert len(list(trace.rglob("perfetto_trace.json.gz"))) == 1 and len(list(trace.rglob("*.xplane.pb"))) == 1
    assert (run / "summary.json").exists() and not (run / "phases").exists()


def test_a_ledger(orbax_bucket, run_entry):
    status, stdout, stderr = run_entry("reproduce.py", *SMOKE, "--only=s2")
    assert status == 0, stderr
    kept = orbax_bucket / "runs" / "claims-smoke" / "linear_teacher"
    assert {path.name for path in kept.iterdir()} > {"summary.json", "table.txt", "environment.json"}
    assert list(kept.glob("*.png"))
    assert json.loads((kept / "summary.json").read_text())["base_unchanged"]
    assert "S2.1" in stdout
