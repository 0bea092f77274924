"""`finetune_lm.py`: from a model and its answers to an adapter and other answers, a talk, a merged model."""

import dataclasses
import io
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from experiments.common import phases
from experiments.finetune import chat as finetune_chat
from experiments.finetune import jobs as finetune_jobs
from experiments.finetune import speaking as finetune_speaking
from experiments.finetune import training as finetune_training
from lora_jax.models import from_pretrained
from lora_jax.tree import flat
from tests.experiments import chat_lm
from tests.experiments.chat_lm import IDS, finished, loaded, spoken, typed

ENTRY = "finetune_lm.py"
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    """The small preset and the small model in `model`; runs go to `runs`."""
    chat_lm.at_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def run(run_entry, home):
    return chat_lm.runner(run_entry, home)


# From answers to other answers.


def test_from_a_model_to_an_adapter_that_peft_has_and_a_talk(run, home, monkeypatch):
    folder, summary = finished(run("--steps=12", "--learning_rate=3e-2"))
    assert summary["after"]["loss"]["mean"] < summary["before"]["loss"]["mean"]
    low, high = (summary["difference"]["loss"][name] for name in ("low", "high"))
    assert low < summary["difference"]["loss"]["mean"] < high < 0
    assert summary["before"]["accuracy"]["n"] == summary["held_out"] == 18 and len(summary["losses"]) == 12
    assert summary["agreement"]["alike"] == summary["agreement"]["n"] == 8
    assert {path.name for path in folder.iterdir()} >= {
        "adapter",
        "peft",
        "finetuning.png",
        "spectrum.png",
        "table.txt",
    }
    model, params, _ = from_pretrained(home / "model")
    found = loaded(folder, params, model)
    back, config = lora_jax.peft.load(folder / "peft", params, model)
    said = found.model.apply({"params": found.params}, IDS)
    np.testing.assert_allclose(lora_jax.LoRA(model, config).apply({"params": back}, IDS), said, atol=2e-5)
    assert float(jnp.abs(said - model.apply({"params": params}, IDS)).max()) > 0.1
    about = json.loads((folder / "peft" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(home / "model") and about["task_type"] == "CAUSAL_LM"
    typed(monkeypatch, "Say red twice.\n/off\nSay red twice.\n/nobody\n/base\n\nSay red twice.\n")
    status, stdout, stderr = run("--job=chat", f"--adapter={folder}", "--max_new_tokens=8", model=False)
    assert (status, stderr) == (0, "") and "voices: /adapter, /off, /base; Ctrl-D ends. Now: adapter." in stdout
    said = stdout.split("Now: adapter.\n", 1)[1]  # an answer may have line breaks of its own
    refused = "there is no voice 'nobody'; there are adapter, off, base, and /new, /help and /quit\n"
    adapter, off, none, base = re.split("|".join(map(re.escape, ("now: off\n", refused, "now: base\n"))), said)
    assert none == "" and off.rstrip("\n") == base.rstrip("\n") != adapter.rstrip("\n")  # off is the base


def test_a_complete_run_is_not_made_again(run):
    folder, summary = finished(run())
    status, stdout, _ = run()
    assert status == 0 and f"run: {folder} is complete" in stdout
    other, _ = finished(run("--seed=1"))
    assert other != folder


def test_a_killed_run_goes_on_exactly(run, home, monkeypatch):
    monkeypatch.setattr(phases, "SAVE_EVERY_S", 0)
    _, whole = finished(run("--steps=12"))
    original, calls = phases._measure, []

    def stopping(folder, phase, step, values):
        calls.append(step)
        original(folder, phase, step, values)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(phases, "_measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("--steps=12", f"--workdir={home / 'cut'}")
    monkeypatch.setattr(phases, "_measure", original)
    finetune_training._epoch.cache_clear()  # as in another process, which compiles anew
    measured = []
    monkeypatch.setattr(finetune_jobs, "print", lambda text, **more: measured.append(text), raising=False)
    folder, cut = finished(run("--steps=12", f"--workdir={home / 'cut'}"))
    assert not any(text.startswith("before:") for text in measured)  # it was measured before the kill
    assert cut["losses"] == whole["losses"] and cut["weights"] == whole["weights"] and cut["items"] == whole["items"]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = {line["step"]: line for line in lines}  # the second process compiled in step 2
    assert cut["seconds_per_step"] == pytest.approx(last[3]["seconds"] / 4)


def test_accumulated_batches_are_the_big_batch(run):
    _, whole = finished(run("--batch_size=6", "--steps=3"))
    _, parts = finished(run("--batch_size=2", "--accumulate=3", "--steps=3"))
    np.testing.assert_allclose(parts["losses"], whole["losses"], atol=1e-5)
    np.testing.assert_allclose(parts["items"]["after"]["nats"], whole["items"]["after"]["nats"], atol=1e-3)


VARIANTS = (
    ("--dora", "--targets=q_proj,*up_proj"), ("--init=pissa", "--rank=3"), ("--rslora", "--alpha=3", "--lora_plus=4", "--dropout=0.1"),
)  # fmt: skip


def test_variants_train_and_are_read_by_peft(run, home):
    """`off` before training is the base for each of them, so all begin from one loss."""
    _, plain = finished(run())
    for given in VARIANTS:
        folder, summary = finished(run(*given))
        np.testing.assert_allclose(summary["items"]["before"]["nats"], plain["items"]["before"]["nats"], rtol=1e-4)
        assert summary["items"]["after"]["nats"] != plain["items"]["after"]["nats"]
        model, params, _ = from_pretrained(home / "model")
        found = loaded(folder, params, model)
        back, config = lora_jax.peft.load(folder / "peft", params, model)
        said = lora_jax.LoRA(model, config).apply({"params": back}, IDS)
        np.testing.assert_allclose(said, found.model.apply({"params": found.params}, IDS), atol=1e-4)


@pytest.mark.parametrize(("regime", "still"), [("full", ()), ("head", ("layers", "norm"))])
def test_training_without_adapters_leaves_a_model_that_speaks(regime, still, run, home, monkeypatch):
    folder, summary = finished(run(f"--regime={regime}"))
    base, trained = (from_pretrained(path).params for path in (home / "model", folder / "model"))
    moved = {path: bool((a != b).any()) for (path, a), b in zip(_leaves(base), jax.tree.leaves(trained), strict=True)}
    assert moved == {path: not any(name in path for name in still) for path in moved}
    assert not (folder / "adapter").exists() and summary["spectrum"] is None
    typed(monkeypatch, "Say red twice.\n")
    status, stdout, _ = run("--job=chat", f"--adapter={folder}", "--max_new_tokens=8", model=False)
    assert status == 0 and "voices: /adapter, /base; Ctrl-D ends. Now: adapter." in stdout


def _leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_bfloat16_is_computed_in_and_kept_and_what_trains_is_float32(run, home):
    folder, summary = finished(run("--dtype=bfloat16", "--param_dtype=bfloat16"))
    model, params, _ = from_pretrained(home / "model", dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    found = loaded(folder, params, model)
    kinds = {str(leaf.dtype) for path, leaf in _leaves(found.params) if "lora_" not in path}
    assert kinds == {"bfloat16"}
    assert {str(leaf.dtype) for path, leaf in _leaves(found.params) if "lora_a" in path} == {"float32"}
    assert np.isfinite(summary["losses"]).all()
    status, stdout, stderr = run("--job=evaluate", f"--adapter={folder}", model=False)  # on the base as the run had it
    assert status == 0 and f"adapter     {summary['after']['loss']['mean']:.3f} [" in stdout, stderr


def test_the_head_is_the_output_layer_or_the_table_that_it_is_tied_to(tmp_path):
    for tied, expected in ((True, {"model/embed_tokens/embedding"}), (False, {"lm_head/kernel"})):
        base = chat_lm.base(tmp_path / str(tied), config=dataclasses.replace(chat_lm.CONFIG, tie_word_embeddings=tied))
        mask = finetune_jobs.training.mask_of(chat_lm.settings(regime="head"), base, base.params)
        assert {path for path, trains in flat(mask).items() if trains} == expected


# Other jobs.


def test_evaluate_says_the_runs_own_numbers_and_merge_a_model_that_says_the_same(run, home):
    folder, summary = finished(run())
    after = summary["after"]["loss"]
    expected = f"adapter     {after['mean']:.3f} [{after['low']:.3f}, {after['high']:.3f}] nats a token"
    for adapter in (folder, folder / "adapter", folder / "peft"):
        status, stdout, stderr = run("--job=evaluate", f"--adapter={adapter}")
        assert (status, stderr) == (0, "") and expected in stdout, stdout
        assert "measured on what is held out of checkable instructions, made here, 18 conversations" in stdout
    out = home / "merged"
    status, stdout, stderr = run("--job=merge", f"--adapter={folder}", f"--out={out}", model=False)
    assert (status, stderr) == (0, "") and f"merged: {out}" in stdout
    merged, base = from_pretrained(out), from_pretrained(home / "model")
    found = loaded(folder, base.params, base.model)
    np.testing.assert_allclose(
        merged.model.apply({"params": merged.params}, IDS), found.model.apply({"params": found.params}, IDS), atol=1e-4
    )  # fmt: skip
    turns = chat_lm.messages("a", "b")
    assert merged.tokenizer.conversation(turns) == base.tokenizer.conversation(turns)


def test_what_a_limit_leaves_is_said_and_a_runs_own_limits_no_other_data(run, home):
    folder, _ = finished(run("--limit=6", "--steps=2"))
    data = f"--data={chat_lm.alpaca(home / 'alpaca.json', 9)}"
    for more, said, count in (
        ((data,), "measured on all of alpaca.json (alpaca), 9 conversations", 9),
        ((data, "--limit=4"), "measured on the first 4 of all of alpaca.json (alpaca), 9 conversations", 4),
        (("--limit=4",), "measured on the first 4 of what is held out of checkable instructions", 4),
    ):
        status, stdout, stderr = run("--job=evaluate", f"--adapter={folder}", *more)
        assert (status, stderr) == (0, "") and said in stdout and f"held out, n = {count};" in stdout, stdout


def test_evaluate_measures_all_of_another_file_and_the_held_out_part_of_the_runs_own(run, home):
    data = f"--data={chat_lm.alpaca(home / 'alpaca.json')}"
    folder, summary = finished(run(data))
    assert summary["held_out"] == 3  # a tenth
    status, stdout, _ = run("--job=evaluate", f"--adapter={folder}", data)
    assert status == 0 and "measured on what is held out of alpaca.json (alpaca), 3 conversations" in stdout
    other = chat_lm.chats(
        home / "other.jsonl", chat_lm.messages("How are you?", "Well."), chat_lm.messages("And you?", "Ill.")
    )
    status, stdout, _ = run("--job=evaluate", f"--adapter={folder}", f"--data={other}")
    assert status == 0 and "measured on all of other.jsonl (messages), 2 conversations" in stdout
    status, stdout, _ = run("--job=evaluate", f"--data={other}")  # the base alone
    assert status == 0 and "difference" not in stdout and "base  " in stdout


def test_a_talk_remembers_until_it_is_told_not_to(run, home, monkeypatch):
    prompts = []
    original = finetune_speaking.answers

    def noted(base, voice, asked, **more):
        prompts.append(base.tokenizer.decode(asked[0], skip_special_tokens=False))
        return original(base, voice, asked, **more)

    monkeypatch.setattr(finetune_speaking, "answers", noted)
    typed(monkeypatch, "one red\ntwo blue\n/new\nthree green\n")
    status, stdout, _ = run("--job=chat", "--max_new_tokens=4", "--system=Be brief.")
    assert status == 0 and "Now: base." in stdout
    assert [("one red" in text, "two blue" in text, "three green" in text) for text in prompts] == [
        (True, False, False), (True, True, False), (False, False, True),
    ]  # fmt: skip
    assert all(text.startswith("<|start|>system\nBe brief.<|end|>") for text in prompts)
    assert f"<|start|>assistant\n{spoken(stdout)[0]}" in prompts[1]  # what was said


def test_e6_help_and_quit_in_a_talk(run, monkeypatch):
    for leave in finetune_chat.QUIT:
        typed(monkeypatch, f"/help\n{leave}\n/help\n")
        status, stdout, stderr = run("--job=chat", "--max_new_tokens=8")
        assert (status, stderr) == (0, "")
        (said,) = spoken(stdout)
        assert (
            said.startswith("a line is what you say; /base change who answers") and "/quit, /exit or Ctrl-D end" in said
        )


def test_e3_a_byte_that_is_not_utf8_in_a_talk(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a \xff\xfe\n/quit\n"), encoding="utf-8"))
    status, stdout, stderr = run("--job=chat", "--max_new_tokens=8")
    assert (status, stderr) == (0, "") and "(that is not UTF-8: set the terminal to UTF-8, and ask again)" in stdout


def test_a_turn_longer_than_the_window_is_told_and_dropped(run, monkeypatch):
    typed(monkeypatch, "why? " * 150 + "\nred\n")
    status, stdout, _ = run("--job=chat", "--max_new_tokens=8")
    told, said, *_ = spoken(stdout)
    assert status == 0 and re.fullmatch(
        r"\(a prompt of \d+ tokens leaves no room for 8 more in the 192 of this model; ask less, or say /new\)", told
    )
    assert "leaves no room" not in said
