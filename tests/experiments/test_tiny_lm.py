"""`tiny_lm.py --job=pretrain`: from text to a model; and what it says to bad input (test_following_run has the study)."""

import json
import pathlib
import re

import numpy as np
import pytest

from experiments.lm import bpe
from experiments.lm import corpus as lm_text
from experiments.lm import pretraining as lm_pretraining
from experiments.lm import speaker as lm_speaker
from tests.experiments import tiny_lm
from tests.experiments.test_flags_and_errors import assert_one_sentence

ENTRY = "tiny_lm.py"
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    """Small presets, a corpus, questions; runs go to `runs`."""
    tiny_lm.at_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def run(run_entry, home):
    """`run("--job=pretrain", ...)` with the small preset, in that folder."""
    return lambda *arguments: run_entry(ENTRY, "--preset=smoke", f"--workdir={home / 'runs'}", *arguments)


@pytest.fixture
def model(run, home) -> str:
    status, stdout, _ = run("--job=pretrain", f"--corpus={home / 'things.jsonl'}")
    assert status == 0
    return re.search(r"^model: (.+)$", stdout, re.MULTILINE)[1]


def summary(stdout: str) -> dict:
    return json.loads(pathlib.Path(re.findall(r"^summary: (.+)$", stdout, re.MULTILINE)[-1]).read_text())


# From text to a model.


def test_e4_a_batch_that_cannot_fit(run, home):
    status, _, stderr = run("--job=pretrain", f"--corpus={home / 'things.jsonl'}", "--batch_size=1000000000")
    assert status == 2
    assert_one_sentence(
        stderr, "--batch_size=1,000,000,000: 10 batches, which run as one, are 10,000,000,000 rows of 32 tokens"
    )


def test_pretraining_goes_on_exactly(run, home, monkeypatch):
    from experiments.common import phases

    monkeypatch.setattr(phases, "SAVE_EVERY_S", 0)
    corpus = f"--corpus={home / 'things.jsonl'}"
    _, stdout, _ = run("--job=pretrain", corpus)
    whole = summary(stdout)
    original, calls = lm_pretraining._held_out, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(lm_pretraining, "_held_out", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("--job=pretrain", corpus, f"--workdir={home / 'cut'}")
    monkeypatch.setattr(lm_pretraining, "_held_out", original)
    _, stdout, _ = run("--job=pretrain", corpus, f"--workdir={home / 'cut'}")
    assert summary(stdout)["held_out_loss"] == whole["held_out_loss"]


def test_bits_per_byte_are_those_of_the_held_out_bytes(model, home):
    """By another route: every held-out token decoded behind another, as a space that a text begins with is left out."""
    folder = pathlib.Path(model).parent
    found = json.loads((folder / "summary.json").read_text())
    base, source = lm_speaker.load(model), lm_text.Source((str(home / "things.jsonl"),))
    rows = lm_text.rows(base.tokenizer, source, 32, 4_000, 200)
    end = base.tokenizer.token_to_id(bpe.END)
    targets = [rows.held_out.ids[r, t + 1] for r, t in zip(*np.nonzero(rows.held_out.scored), strict=True)]
    ahead = base.tokenizer.token_to_id("x")
    count = sum(len(base.tokenizer.decode([ahead, token]).encode()) - 1 for token in targets if token != end)
    assert found["bits_per_byte"] == pytest.approx(found["held_out_loss"] * len(targets) / np.log(2) / count)
    assert found["held_out_tokens"] == len(targets)


# Bad input.


@pytest.mark.parametrize(
    "arguments, status, sentence",
    [
        (("--job=pretrain", "--corpus=/nonexistent.txt"), 2, "--corpus: there is no file /nonexistent.txt"),
        (("--job=pretrain", "--size=7B"), 1, "--size=7B: value should be one of <0.3M|1M|3M|10M|26M>"),
        (("--job=pretrain", "--length=1000"), 2, "--length: 1000 is not between 2 and 64"),
        (("--job=finetune",), 1, "--job=finetune: value should be one of <pretrain|study>"),
        (("--job=pretrain", "--medical=x"), 2, "--medical has no meaning with --job=pretrain"),
        (("--job=pretrain", "--seeds=2"), 2, "--seeds has no meaning with --job=pretrain"),
        (("--job=study", "--size=3M"), 2, "--size=3M: --job=study is of 1M or 26M"),
        (("--job=study", "--tokens=9"), 2, "--tokens has no meaning with --job=study"),
        (("--job=study", "--medical=x.json"), 2, "--medical has no meaning with --preset=smoke"),
    ],
)
def test_bad_flags(run, arguments, status, sentence):
    found, _, stderr = run(*arguments)
    assert found == status
    assert_one_sentence(stderr, sentence)


def test_bad_text(run, home):
    (home / "empty.txt").write_text(" \n")
    (home / "other.jsonl").write_text('{"body": "x"}\n')
    for name, sentence in (
        ("empty.txt", "0 documents in"),
        ("other.jsonl", "has no text under 'text', only body; see --field"),
    ):
        status, _, stderr = run("--job=pretrain", f"--corpus={home / name}")
        assert status == 2
        assert_one_sentence(stderr, sentence)
