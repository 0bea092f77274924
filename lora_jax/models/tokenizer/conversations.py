"""Which tokens of a conversation the assistant says."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_jax.errors import ModelError, shown
from lora_jax.models import chat_template

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
    """(ids of the whole, whether the assistant says each).

    An answer begins where the same messages without it, rendered as a question, end: there a model begins to write when it is asked.
    """
    chat_template.require_messages(messages)
    ids = tokenizer.chat_ids(messages, add_generation_prompt=False, **variables)
    said = [False] * len(ids)
    for i in (i for i, message in enumerate(messages) if message["role"] == ANSWER):
        if i == 0:
            raise ModelError("message 0 is the assistant's; a conversation begins with a question.")
        first = _begin(tokenizer, messages, i, ids, variables)
        last = _end(tokenizer, messages, i, ids, first, variables)
        said[first:last] = [True] * (last - first)
    return ids, said


def _begin(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], i: int, ids: list[int], variables: Mapping[str, Any]
) -> int:
    """Where answer `i` begins. Raises ModelError where no token does."""
    whole = tokenizer.chat(messages, add_generation_prompt=False, **variables)
    asked = tokenizer.chat(messages[:i], add_generation_prompt=True, **variables)
    if not whole.startswith(asked):
        raise ModelError(
            f"{tokenizer.where}: its chat template does not write the messages before message {i} as it writes them when they are asked, "
            "so an answer cannot be told from its question; leave out the system message, or train on one question and one answer."
        )
    before = tokenizer.encode(asked, add_special_tokens=False)
    if ids[: len(before)] != before:
        raise ModelError(
            f"{tokenizer.where}: message {i}, {shown(messages[i]['content'])}, begins within a token of its question; "
            "strip the spaces and line ends that it begins with."
        )
    return len(before)


def _end(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    i: int,
    ids: list[int],
    first: int,
    variables: Mapping[str, Any],
) -> int:
    """The place after answer `i` and its end of turn."""
    end = tokenizer.end_of_turn
    if end is not None:
        inside = tokenizer.encode(messages[i]["content"], add_special_tokens=False).count(end)
        places = [place for place in range(first, len(ids)) if ids[place] == end]
        if len(places) > inside:
            return places[inside] + 1
    so_far = tokenizer.chat_ids(messages[: i + 1], add_generation_prompt=False, **variables)
    if ids[: len(so_far)] != so_far:
        raise ModelError(
            f"{tokenizer.where}: its chat template marks no end of message {i}; train on one question and one answer."
        )
    return len(so_far)
