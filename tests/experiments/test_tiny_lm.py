"""`tiny_lm.py`: from text to a model, to answers, to a talk; and what it says to bad input."""

import io
import json
import pathlib
import re

import numpy as np
import pytest

from experiments.data import bpe
from experiments.studies import lm_pretraining, lm_speaker, lm_text
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
    """`run("--job=chat", ...)` with the small preset, in that folder."""
    return lambda *arguments: run_entry(ENTRY, "--preset=smoke", f"--workdir={home / 'runs'}", *arguments)


@pytest.fixture
def model(run, home) -> str:
    status, stdout, _ = run("--job=pretrain", f"--corpus={home / 'things.jsonl'}")
    assert status == 0
    return re.search(r"^model: (.+)$", stdout, re.MULTILINE)[1]


def asking(home, model: str) -> tuple[str, str]:
    return f"--model={model}", f"--questions={home / 'questions.json'}"


def summary(stdout: str) -> dict:
    return json.loads(pathlib.Path(re.findall(r"^summary: (.+)$", stdout, re.MULTILINE)[-1]).read_text())


# From text to a talk.


def test_from_text_to_a_talk(run, home, model, monkeypatch):
    status, stdout, stderr = run("--job=finetune", *asking(home, model))
    assert (status, stderr) == (0, "")
    found = summary(stdout)
    assert found["loss"][-1] < found["loss"][0] and found["epochs"] == [0, 1, 2]
    folder = pathlib.Path(re.search(r"^summary: (.+)/summary.json$", stdout, re.MULTILINE)[1])
    assert (folder / "spectrum.png").is_file()
    assert (folder / "adapter").is_dir() and not (folder / "model").exists()  # adapters only on disk
    monkeypatch.setattr(
        "sys.stdin",
        io.StringIO("What about the car 0?\n/off\nWhat about the car 0?\n/nobody\n/base\n\nWhat about the car 0?\n"),
    )
    status, stdout, stderr = run("--job=chat", *asking(home, model), "--max_new_tokens=8")
    assert (status, stderr) == (0, "")
    lines = stdout.splitlines()
    assert "voices: /LoRA, /off, /base; Ctrl-D ends. Now: LoRA." in lines
    said = lines[lines.index("voices: /LoRA, /off, /base; Ctrl-D ends. Now: LoRA.") + 1 :]
    assert [said[1], said[3], said[4]] == [
        "now: off",
        "there is no voice 'nobody'; there are LoRA, off, base, and /help and /quit",
        "now: base",
    ]
    assert said[2] == said[5] != said[0]  # the adapter off is the base, and the adapter says something else


def test_e6_help_and_quit_in_a_talk(run, home, model, monkeypatch):
    for leave in ("/quit", "/exit"):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"/help\n{leave}\n/help\n"))
        status, stdout, stderr = run("--job=chat", *asking(home, model), "--max_new_tokens=8")
        assert (status, stderr) == (0, "")
        lines = stdout.splitlines()
        (said,) = lines[lines.index("voices: /base; Ctrl-D ends. Now: base.") + 1 :]
        assert (
            said.startswith("a line is a question; /base change who answers") and "/quit, /exit or Ctrl-D end" in said
        )


def test_e3_a_byte_that_is_not_utf8_in_a_talk(run, home, model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a \xff\xfe\n/quit\n"), encoding="utf-8"))
    status, stdout, stderr = run("--job=chat", *asking(home, model), "--max_new_tokens=8")
    assert (status, stderr) == (0, "") and "(that is not UTF-8: set the terminal to UTF-8, and ask again)" in stdout


def test_e4_a_rank_or_a_batch_that_cannot_fit(run, home, model):
    status, _, stderr = run("--job=finetune", *asking(home, model), "--rank=1000000000")
    assert status == 2
    assert_one_sentence(stderr, "training an adapter of --rank=1,000,000,000 takes ")
    status, _, stderr = run("--job=pretrain", f"--corpus={home / 'things.jsonl'}", "--batch_size=1000000000")
    assert status == 2
    assert_one_sentence(
        stderr, "--batch_size=1,000,000,000: 10 batches, which run as one, are 10,000,000,000 rows of 32 tokens"
    )


def test_full_fine_tuning_leaves_a_model_that_speaks(run, home, model, monkeypatch):
    status, stdout, _ = run("--job=finetune", *asking(home, model), "--regime=Full")
    folder = pathlib.Path(re.search(r"^summary: (.+)/summary.json$", stdout, re.MULTILINE)[1])
    assert status == 0 and lm_speaker.load(folder / "model").tokenizer.get_vocab_size() <= 400
    runs = set((home / "runs").iterdir())
    monkeypatch.setattr("sys.stdin", io.StringIO("What about the car 0?\n"))
    status, stdout, _ = run("--job=chat", *asking(home, model), "--max_new_tokens=8")
    assert status == 0 and "voices: /full, /base; Ctrl-D ends. Now: full." in stdout
    assert set((home / "runs").iterdir()) == runs  # a talk leaves nothing


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
    """By another route: every held-out token decoded by itself."""
    folder = pathlib.Path(model).parent
    found = json.loads((folder / "summary.json").read_text())
    base, source = lm_speaker.load(model), lm_text.Source((str(home / "things.jsonl"),))
    rows = lm_text.rows(base.tokenizer, source, 32, 4_000, 200)
    end = base.tokenizer.token_to_id(bpe.END)
    targets = [rows.held_out.ids[r, t + 1] for r, t in zip(*np.nonzero(rows.held_out.scored), strict=True)]
    count = sum(len(base.tokenizer.decode([token]).encode()) for token in targets if token != end)
    assert found["bits_per_byte"] == pytest.approx(found["held_out_loss"] * len(targets) / np.log(2) / count)
    assert found["held_out_tokens"] == len(targets)


# Bad input.


@pytest.mark.parametrize(
    "arguments, status, sentence",
    [
        (("--job=pretrain", "--corpus=/nonexistent.txt"), 2, "--corpus: there is no file /nonexistent.txt"),
        (("--job=pretrain", "--size=7B"), 1, "--size=7B: value should be one of <0.3M|1M|3M|10M|26M>"),
        (("--job=pretrain", "--length=1000"), 2, "--length: 1000 is not between 2 and 64"),
        (("--job=pretrain", "--model=x"), 2, "--model has no meaning with --job=pretrain"),
        (("--job=finetune",), 2, "--model is missing"),
        (("--job=finetune", "--regime=qlora"), 1, "--regime=qlora: value should be one of <LoRA|full|head>"),
        (("--job=finetune", "--regime=full", "--rank=2"), 2, "--rank has no meaning with --regime=full"),
        (("--job=finetune", "--medical=x"), 2, "--medical has no meaning with --job=finetune"),
        (("--job=study", "--rank=2"), 2, "--rank has no meaning with --job=study"),
        (("--job=chat", "--temperature=1", "--top_p=2"), 1, "--top_p=2: expected a number from 1e-06 to 1"),
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


def test_another_models_tokenizer_or_base(run, home, model):
    status, stdout, _ = run("--job=finetune", *asking(home, model))
    assert status == 0
    folder = pathlib.Path(model)
    tokenizer = json.loads((folder / bpe.FILE).read_text())
    other = bpe.trained([f"word{i} other{i}" for i in range(400)], 700)
    (folder / bpe.FILE).write_bytes(bpe.content(other))
    status, _, stderr = run("--job=finetune", *asking(home, model))
    assert status == 2
    assert_one_sentence(stderr, "embeddings; they do not belong together")
    (folder / bpe.FILE).write_text(json.dumps(tokenizer))


def test_rows_longer_than_the_context(run, home, model):
    status, _, stderr = run("--job=finetune", *asking(home, model), "--length=65")
    assert status == 2
    assert_one_sentence(stderr, "--length: 65 is not between 2 and 64, the positions of")


def test_a_question_longer_than_the_context(run, home, model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("why? " * 40 + "\n"))
    status, stdout, _ = run("--job=chat", *asking(home, model), "--max_new_tokens=8")
    assert status == 0 and "leaves no room for 8 more in 64" in stdout


def test_a_rank_above_the_width_is_allowed_with_a_warning(run, home, model):
    status, stdout, _ = run("--job=finetune", *asking(home, model), "--rank=16")
    assert status == 0 and "warning: --rank=16 is not below 16" in stdout
