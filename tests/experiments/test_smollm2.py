"""S4's over-parameterised end on a model of 16 dimensions: one program of the entry, its claim, and what it refuses."""

import json

import numpy as np
import pytest

from experiments.common import statistics
from experiments.common.items import packed
from experiments.following import read
from experiments.following.read import BOTH, WORDS
from experiments.smollm2 import claims, figures, settings, study
from tests.experiments import chat_lm

SMALL = settings.Settings(
    items=46, tuning=23, held_out=2, length=144, batch_size=2, steps=4, tuning_steps=2,
    lora_rates=(1e-3, 1.8e-3), full_rates=(1e-3,), widenings=0,
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def run(run_entry, tmp_path, monkeypatch):
    chat_lm.at_home(tmp_path, monkeypatch)
    monkeypatch.setitem(settings.PRESETS, "smoke", SMALL)
    of = chat_lm.runner(run_entry, tmp_path)
    return lambda *arguments: of("--job=compare", *arguments)


def test_both_arms_learn_the_same_items_and_an_interrupted_run_goes_on(run, monkeypatch):
    original, done = study._judged, []

    def stopping(*of):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return original(*of)

    monkeypatch.setattr(study, "_judged", stopping)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(study, "_judged", original)
    measured = []
    monkeypatch.setattr(study, "_judged", lambda *of: measured.append(1) or original(*of))
    folder, summary = chat_lm.finished(run())
    assert len(measured) == 1  # the base and LoRA had been measured
    rows = {row["arm"]: row for row in summary["rows"]}
    assert list(rows) == ["base", "LoRA r=8", "full"] and rows["LoRA r=8"]["steps"] == rows["full"]["steps"] == 4
    assert rows["full"]["parameters"] == summary["base"]["parameters"] > 20 * 8 > 0
    for row in rows.values():
        right = read.right(summary, row)
        assert right.shape == (1, 26) and right.mean() == pytest.approx(row["share"][WORDS][0])
    nats = [row["nats"][WORDS][0] for row in rows.values()]
    assert nats[1] < nats[0] and nats[2] < nats[0]  # both learned
    (lora, full) = summary["tuning"]
    assert (
        lora["best"] == rows["LoRA r=8"]["rate"] in SMALL.lora_rates
        and len(lora["runs"]) == 2
        and full["by"] == "given"
    )
    assert (folder / "kinds.png").is_file()
    assert f"{rows['full']['parameters']:,}" in (folder / "table.txt").read_text()
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("flag", ["--rank=4", "--steps=3", "--temperature=0.5", "--data=mine.jsonl", "--seed=1"])
def test_what_the_presets_say_is_refused(flag, run):
    status, _, stderr = run(flag)
    assert status in (1, 2) and f"{flag.split('=')[0]} has no meaning with --job=compare" in stderr


KINDS = list(np.repeat(("first", "last", "copy", "plural"), 60))


def summary(base: float, lora: float, full: float) -> dict:
    hard = np.random.default_rng(0).random(len(KINDS))

    def row(arm: str, share: float) -> dict:
        right = packed([hard < share])
        return {
            "part": "arms", "arm": arm, "units": [[0, 0]], "right": {WORDS: right, BOTH: right}, "steps": 9, "parameters": 1,
            "nats": {WORDS: [1.0]},
        }  # fmt: skip

    return {
        "rows": [row("base", base), row("LoRA r=8", lora), row("full", full)],
        "kinds": {WORDS: KINDS, BOTH: KINDS},
        "base": {"name": "someone/small", "parameters": 1},
        "tuning": [],
        "train_rows": 1,
    }


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((0.0, 0.8, 0.81), "holds"), ((0.0, 0.5, 0.8), "does not hold"), ((0.0, 0.74, 0.8), "not settled"),
        ((0.0, 0.3, 0.31), "not testable"), ((0.0, 0.5, 0.52), "not testable"),
    ],
)  # fmt: skip
def test_where_the_verdict_turns(shares, verdict):
    (claim,) = claims.claims(summary(*shares), "command")
    assert claim.id == "S4.8" and claim.verdict.startswith(verdict) and claim.n == len(KINDS)


def test_the_table_says_how_sure_a_share_is():
    made = summary(0.0, 0.8, 0.8)
    right = int(read.right(made, made["rows"][2]).sum())
    assert statistics.text(statistics.wilson(right, len(KINDS)), 1, 100) in figures.table(made)
