"""Which tokens of a conversation the assistant says."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lora_jax.errors import ModelError, shown

ANSWER = "assistant"
PROBE = "ANSWER"


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that follows an answer, found by rendering one."""
    try:
        text = tokenizer.chat(
            [{"role": "user", "content": "QUESTION"}, {"role": ANSWER, "content": PROBE}], add_generation_prompt=False
        )
    except ModelError:
        return None  # told when the template is used
    _, found, after = text.rpartition(PROBE)
    ids = tokenizer.encode(after.lstrip(), add_special_tokens=False) if found else []
    return ids[0] if ids and ids[0] in tokenizer.special else None


def marked(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> tuple[list[int], list[bool]]:
    """(ids of the whole, whether the assistant says each)."""
    whole = tokenizer.chat(messages, add_generation_prompt=False, **variables)
    written = _Written(tokenizer, messages, variables, whole, tokenizer.encode(whole, add_special_tokens=False))
    said = [False] * len(written.ids)
    for i in (i for i, message in enumerate(messages) if message["role"] == ANSWER):
        first = written.begin(i)
        last = written.end(i, first)
        said[first:last] = [True] * (last - first)
    return written.ids, said


@dataclasses.dataclass(frozen=True)
class _Written:
    """Messages, and the text and the ids that the template makes of them."""

    tokenizer: Any
    messages: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any]
    text: str
    ids: list[int]

    def begin(self, i: int) -> int:
        """Where answer `i` begins: where the messages before it end when they are asked, for there a model begins to write."""
        if i == 0:
            raise ModelError("message 0 is the assistant's; a conversation begins with a question.")
        asked = self.tokenizer.chat(self.messages[:i], add_generation_prompt=True, **self.variables)
        if not self.text.startswith(asked):
            raise ModelError(
                f"{self.tokenizer.where}: its chat template does not write the messages before message {i} as it writes them when they are "
                "asked, so an answer cannot be told from its question; leave out the system message, or train on one question and one answer."
            )
        before = self.tokenizer.encode(asked, add_special_tokens=False)
        if self.ids[: len(before)] != before:
            raise ModelError(
                f"{self.tokenizer.where}: message {i}, {shown(self.messages[i].get('content'))}, begins within a token of its question; "
                "strip the spaces and line ends that it begins with."
            )
        return len(before)

    def end(self, i: int, first: int) -> int:
        """The place after answer `i` and its end of turn."""
        so_far = self.tokenizer.chat_ids(self.messages[: i + 1], add_generation_prompt=False, **self.variables)
        if self.ids[: len(so_far)] == so_far:
            ends = [place + 1 for place in range(first, len(so_far)) if so_far[place] == self.tokenizer.end_of_turn]
            return ends[-1] if ends else len(so_far)
        return self._end_of_words(i, first)

    def _end_of_words(self, i: int, first: int) -> int:
        """The same in a template that writes an answer otherwise when more is said, as Qwen3's, which drops what was thought."""
        content = (self.messages[i].get("content") or "").strip()
        for place in (place for place in range(first, len(self.ids)) if self.ids[place] == self.tokenizer.end_of_turn):
            if content.endswith(self.tokenizer.decode(self.ids[first:place], skip_special_tokens=False).strip()):
                return place + 1
        raise ModelError(
            f"{self.tokenizer.where}: its chat template marks no end of message {i}; train on one question and one answer."
        )
