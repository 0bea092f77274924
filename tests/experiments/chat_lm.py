"""A chat model of 16 dimensions in a Hugging Face folder, with a tokenizer trained here, and data to fine-tune it on."""

import dataclasses
import io
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import lora_jax
from experiments.data.instructions import checkable
from experiments.finetune import base as finetune_base
from experiments.finetune import settings as finetune_lm
from experiments.finetune.base import Base
from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig

START, END, PAD, BEGIN = "<|start|>", "<|end|>", "<|pad|>", "<|text|>"
IDS = jnp.arange(5, 17, dtype=jnp.int32)[None]
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CONFIG = CausalLMConfig(400, 16, 24, 2, 2, 1, 192)
SETTINGS = finetune_lm.Settings(
    rank=2, learning_rate=1e-2, length=144, batch_size=2, items=40, held_out=18, asked=4, max_new_tokens=6, steps=4
)


def at_home(path: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
    """Small presets under the name "smoke", and the model in `path/model`."""
    patch.setitem(finetune_lm.PRESETS, "smoke", SETTINGS)
    folder(path / "model")


def runner(run_entry, path: pathlib.Path):
    """`run("--steps=4", ...)` with the small preset, on the small model of `path` unless another is named."""

    def run(*arguments: str, model: bool = True):
        named = [f"--model={path / 'model'}"] if model else []
        return run_entry("finetune_lm.py", "--preset=smoke", f"--workdir={path / 'runs'}", *named, *arguments)

    return run


def tokenizer() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    items = checkable.items(200, 1, words="trained", phrasings="trained")
    made.train_from_iterator(
        (f"{item.question}\n{item.answer}" for item in items),
        trainers.BpeTrainer(
            vocab_size=CONFIG.vocab_size, special_tokens=[PAD, START, END, BEGIN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        ),
    )  # fmt: skip
    return made


def folder(
    path: pathlib.Path, template: str | None = TEMPLATE, config: CausalLMConfig = CONFIG, *, eos: bool = True
) -> str:
    """A folder with random weights large enough for every token to have a say; its path."""
    params = jax.jit(CausalLM(config).init)(jax.random.key(0), jnp.ones((1, 4), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim > 1 else leaf, params)
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD} | ({"eos_token": END} if eos else {})
    beside = {"tokenizer.json": tokenizer().to_str().encode(), "tokenizer_config.json": json.dumps(said).encode()}
    beside |= {} if template is None else {"chat_template.jinja": template.encode()}
    causal_folder.write(path, config, params, beside=beside)
    return str(path)


def base(path: pathlib.Path, **more) -> Base:
    return finetune_base.load(folder(path, **more))


def settings(**more) -> finetune_lm.Settings:
    return dataclasses.replace(SETTINGS, **more)


def alpaca(path: pathlib.Path, count: int = 30) -> str:
    """Questions with an input, one answer each."""
    rows = [
        {"instruction": f"What is the number {i} called?", "input": f"Think of {i}.", "output": f"It is called {i}."} for i in range(count)
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    return str(path)


def messages(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """The user's and the assistant's turns, one after the other."""
    start = [] if system is None else [{"role": "system", "content": system}]
    return start + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def chats(path: pathlib.Path, *rows: object) -> str:
    """A file of these rows, each {"messages": ...} where it is a list."""
    lines = [json.dumps({"messages": row} if isinstance(row, list) else row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


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
