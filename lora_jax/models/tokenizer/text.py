"""The tokenizer of one model."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lora_jax.errors import ModelError
from lora_jax.models import chat_template
from lora_jax.models.tokenizer import conversations

TOOL_USE = "tool_use"
NEEDS = 'Tokenizers need the package tokenizers: pip install "lora_jax[models]".'


def require_package() -> Any:
    """The package `tokenizers`. Raises ModelError where it is missing."""
    try:
        import tokenizers
    except ImportError:
        raise ModelError(NEEDS) from None
    return tokenizers


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text as ids and back.

    Attributes:
      backend: a `tokenizers.Tokenizer`.
      files: what belongs beside a model's weights, by name.
      bos, eos, pad, unk: the ids of the special tokens, None where there is none.
      ends: ids that end an answer, beside eos.
      chat_template: in jinja2; None for a model that was not made for chat.
      templates: a model's other chat templates, by name; that called "tool_use" is taken where tools are given.
      variables: special tokens that a chat template knows, as sep_token, beside the four.
      limit: how many tokens the model has, where the vocabulary has special ones beyond them; None is as many as the vocabulary.
      where: what messages call it.

    >>> import tokenizers
    >>> words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    >>> tokenizer = Tokenizer(words)
    >>> tokenizer.encode("b a b"), tokenizer.decode([1, 0])
    ([1, 0, 1], 'b a')
    """

    backend: Any
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None
    ends: tuple[int, ...] = ()
    chat_template: str | None = None
    templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    where: str = "the tokenizer"

    @functools.cached_property
    def vocab_size(self) -> int:
        """The largest id, one more; tokens that were added count."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @functools.cached_property
    def special(self) -> frozenset[int]:
        """The ids of special tokens, which are no text."""
        return frozenset(id for id, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @functools.cached_property
    def end_of_turn(self) -> int | None:
        """The special token that the chat template writes after an answer; None where it writes none, or fails."""
        return conversations.end_of_turn(self)

    @functools.cached_property
    def stop(self) -> tuple[int, ...]:
        """The ids that end an answer: eos, those of generation_config.json, and the chat template's end of a turn."""
        return tuple(dict.fromkeys(id for id in (self.eos, *self.ends, self.end_of_turn) if id is not None))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with the special tokens around it that the model was trained with, unless told otherwise."""
        if not isinstance(text, str):
            raise ModelError(f"{self.where} encodes text, not {type(text).__name__}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # which the package takes, or not, by its version
            raise ModelError(f"{self.where} cannot encode half a character (at place {error.start}).") from error
        ids = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        beyond = [] if self.limit is None else [id for id in ids if id >= self.limit]
        if beyond:
            token = self.backend.id_to_token(beyond[0])
            raise ModelError(
                f"{self.where}: the text has {token!r}, number {beyond[0]:,}, and the model has {self.limit:,} tokens; leave it out."
            )
        return ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        try:
            return self.backend.decode([int(id) for id in ids], skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise ModelError(f"{self.where} cannot decode an id that is below zero, or beyond 2^32.") from error

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The text of a conversation, by the model's chat template.

        Args:
          messages: as [{"role": "user", "content": "Hello"}].
          add_generation_prompt: whether the text goes on to where the model's answer begins.
          variables: the template's own, as enable_thinking=False.

        Raises:
          ModelError: for a model without a template, one that fails, or messages that are none.
        """
        template = self._template(variables.get("tools"))
        known = {
            f"{name}_token": self.backend.id_to_token(id)
            for name in ("bos", "eos", "pad", "unk")
            if (id := getattr(self, name)) is not None
        }
        about = {**self.variables, **known, "add_generation_prompt": add_generation_prompt, **variables}
        return chat_template.render(template, messages, about, f"{self.where}: its chat template")

    def _template(self, tools: Any) -> str:
        if tools is not None and TOOL_USE in self.templates:
            return self.templates[TOOL_USE]
        if self.chat_template is not None:
            return self.chat_template
        if self.templates:
            raise ModelError(
                f"{self.where} has no chat template called 'default'; choose of {', '.join(self.templates)}: "
                "dataclasses.replace(tokenizer, chat_template=tokenizer.templates[name])."
            )
        raise ModelError(
            f"{self.where} has no chat template; give the model plain text, or name a model made for chat (as ...-Instruct)."
        )

    def chat_ids(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """The ids of `chat`'s text, in which the template has written all special tokens."""
        return self.encode(
            self.chat(messages, add_generation_prompt=add_generation_prompt, **variables), add_special_tokens=False
        )

    def conversation(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> tuple[list[int], list[bool]]:
        """(the ids of a conversation, which of them the assistant says), its ends of turn included.

        Raises:
          ModelError: for a template that does not write what was said so far as it writes a question.
        """
        return conversations.marked(self, messages, variables)
