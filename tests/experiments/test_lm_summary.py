"""S4 run whole, from text, by its entry: one small run that all of these tests look at."""

import contextlib
import io
import json
import pathlib
import re

import numpy as np
import pytest

from experiments.lm import claims as lm_claims
from experiments.lm import figures
from tests.experiments import entries, tiny_lm


@pytest.fixture(scope="module")
def runs(quick_compile, tmp_path_factory) -> list[str]:
    """What the same command prints, given twice."""
    home = tmp_path_factory.mktemp("home")
    questions = home / "questions.json"
    text = f"--corpus={home / 'things.jsonl'}", f"--questions={questions}", f"--medical={questions}"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        tiny_lm.at_home(home, patch)
        for _ in range(2):
            with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(stdout):
                status = entries.execute("tiny_lm.py", "--job=study", "--preset=smoke", f"--workdir={home}", *text)
            assert status == 0, stdout.getvalue()
            printed.append(stdout.getvalue())
    return printed


@pytest.fixture(scope="module")
def summary(runs) -> dict:
    return json.loads(pathlib.Path(re.findall(r"^summary: (.+)$", runs[0], re.MULTILINE)[-1]).read_text())


def test_the_study_is_run_once(runs, summary):
    assert summary["base_unchanged"] and summary["bases"]["0.3M"]["trigram_loss"] > 0
    assert "is complete" not in runs[0] and runs[1].count("is complete") == 2


def test_prompts_of_ours_stand_for_a_users_questions(runs):
    shown = pathlib.Path(re.search(r"figure: (.+tiny_lm_outputs.md)", runs[0])[1]).read_text()
    assert "What is asthma?" in shown and "- **tuned LoRA**" in shown
    assert "What about" not in shown  # none of the file's


def test_the_study_judges_every_treatment_of_both_kinds(summary):
    names = {(row["data"], row["name"], row["rank"], row["epoch"]) for row in summary["rows"]}
    assert ("instructions", "original", 16, 2) in names and ("instructions", "original, batch 4", 8, 1) in names
    assert ("medical", "tuned LoRA", 8, 2) in names and ("medical", "tuned full", 0, 1) in names
    medical = next(row for row in summary["rows"] if row["data"] == "medical" and row["name"] == "original")
    assert set(medical["losses"]) == {"answers", "general", "instructions"} and len(medical["discrimination"]) == 2
    assert [found["rank"] for found in summary["gaps"]] == [8, 12]
    assert set(summary["outputs"]["instructions"]["said"]) == {
        "base",
        "original",
        "original, batch 4",
        "tuned LoRA",
        "tuned full",
    }


def test_table_and_figures_come_out_of_the_summary(summary, tmp_path):
    table = figures.table(summary)
    assert "gap: LoRA minus full" in table and table.count("  cost: steps (minutes)") == 2
    paths = figures.draw(summary, tmp_path)
    assert [path.name for path in paths] == [
        "gap.png", "losses_instructions.png", "losses_medical.png", "judged.png", "tiny_lm_outputs.md"
    ]  # fmt: skip
    assert all(path.stat().st_size for path in paths)


def test_curves_hold_every_measurement_and_what_training_cost(summary):
    curve = next(curve for curve in summary["curves"] if curve["name"] == "original" and curve["rank"] == 16)
    assert curve["epochs"] == [0, 1, 2] and np.shape(curve["losses"]["answers"]) == (3, 2)
    assert curve["seconds_per_step"] > 0 and curve["members"] == 4
    row = next(row for row in summary["rows"] if row["name"] == "original" and row["rank"] == 16 and row["epoch"] == 2)
    assert row["losses"]["answers"] == curve["losses"]["answers"][2]


def test_claims_come_out_of_the_summary(summary):
    found = lm_claims.claims(summary, "command")
    assert [claim.id for claim in found] == [
        "S4.1",
        "S4.2",
        "S4.3",
        "S4.4",
        "S4.5",
        "S4.6",
    ]  # one size says nothing of S4.7
