"""Conversations to learn answers from: chat messages, one list a line, or questions with answers in Alpaca's or MedQuAD's format."""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments.common.errors import UserError
from experiments.data import questions

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
FLAG = "--data"


class Conversation(NamedTuple):
    """`messages` are (role, content), the last one the assistant's; `kind` of question, where questions are of kinds."""

    messages: tuple[tuple[str, str], ...]
    kind: str = ""

    @property
    def question(self) -> str:
        """The last thing asked."""
        return self.messages[-2][1]

    @property
    def answer(self) -> str:
        """The last thing said."""
        return self.messages[-1][1]

    @property
    def first(self) -> str:
        """What is said before the first answer."""
        said = [role for role, _ in self.messages]
        return json.dumps(self.messages[: said.index(ASSISTANT)])


@dataclasses.dataclass(frozen=True)
class Conversations:
    """What a source gave, and how many of its rows were left out, by reason. `held_out` is None where it must be split off."""

    found: tuple[Conversation, ...]
    left_out: dict[str, int]
    source: str
    held_out: tuple[Conversation, ...] | None = None

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps([self.found, self.held_out]).encode()).hexdigest()


def asked(question: str, answer: str, kind: str = "") -> Conversation:
    """One question and its answer.

    >>> asked("How many?", "3").messages
    (('user', 'How many?'), ('assistant', '3'))
    """
    return Conversation(((USER, question), (ASSISTANT, answer)), kind)


def read(path: str) -> Conversations:
    """The conversations of a .json (a list) or .jsonl file, gzipped or not; its first row says of which kind it is.

    Raises:
      UserError: for a file that is missing, damaged, not UTF-8, of no known kind, or without a single good row.
    """
    where = f"{FLAG}: {path}"
    rows = questions.rows(where, epath.Path(path))
    if rows and isinstance(rows[0], dict) and "messages" in rows[0]:
        return _of_messages(where, rows, f"{epath.Path(path).name} (messages)")
    found = questions.of_rows(where, rows, epath.Path(path).name, also=", or messages (chat)")
    return Conversations(tuple(asked(pair.question, pair.answer) for pair in found.pairs), found.left_out, found.source)


def _of_messages(where: str, rows: Sequence[Any], source: str) -> Conversations:
    good, left_out = [], collections.Counter()
    for row in rows:
        conversation, problem = _conversation(row)
        if conversation is None:
            left_out[problem] += 1
        else:
            good.append(conversation)
    if not good:
        raise UserError(
            f"{where}: none of its {len(rows):,} rows is a conversation with an answer ({questions.reasons(left_out)})."
        )
    return Conversations(tuple(good), dict(left_out), source)


def _conversation(row: Any) -> tuple[Conversation | None, str]:
    """(the conversation up to its last answer, "") or (None, why not)."""
    said = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(said, list) or not all(isinstance(message, dict) for message in said):
        return None, "no messages"
    pairs = [(message.get("role"), message.get("content")) for message in said]
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        return None, "no text"
    if any(questions.is_broken(content) for _, content in pairs):
        return None, "wrong encoding"
    if any(role not in (SYSTEM, USER, ASSISTANT) for role, _ in pairs):
        return None, "another role"
    messages = [(role, content.strip()) for role, content in pairs]
    while messages and messages[-1][0] != ASSISTANT:
        messages.pop()
    if not messages or any(role == ASSISTANT and not content for role, content in messages):
        return None, "no answer"
    if any(not after[1] for after in messages if after[0] == USER) or _begins_with_an_answer(messages):
        return None, "no question"
    return Conversation(tuple(messages)), ""


def _begins_with_an_answer(messages: Sequence[tuple[str, str]]) -> bool:
    roles = [role for role, _ in messages]
    return USER not in roles[: roles.index(ASSISTANT)] or roles[-2] != USER


def split(of: Conversations, held_out: int, limit: int | None) -> tuple[Conversations, Conversations]:
    """(to train on, held out), disjoint in what is asked first.

    A conversation's part is a matter of the hash of its first question: it does not depend on the others or their order. Where two begin
    with the same question, the first is taken.

    Raises:
      UserError: where there are too few.
    """
    if of.held_out is not None:
        return dataclasses.replace(of, found=of.found[:limit]), dataclasses.replace(of, found=of.held_out[:held_out])
    unique = _unique(of.found)
    count = min(held_out, max(1, len(unique) // 10))
    if len(unique) < 2:
        left_out = f" ({questions.reasons(of.left_out)} left out)" if of.left_out else ""
        raise UserError(f"{FLAG}: {of.source} has 1 different question{left_out}; give at least 2.")
    left_out = dict(of.left_out)
    if len(of.found) > len(unique):
        left_out["asked before"] = len(of.found) - len(unique)
    train = tuple(unique[count:][:limit])
    return Conversations(train, left_out, of.source), Conversations(tuple(unique[:count]), {}, of.source)


def _unique(found: Iterable[Conversation]) -> list[Conversation]:
    """The first conversation of each question, in the order of the questions' hashes."""
    by_question: dict[str, Conversation] = {}
    for conversation in found:
        by_question.setdefault(conversation.first, conversation)
    return [
        by_question[first] for first in sorted(by_question, key=lambda text: hashlib.sha256(text.encode()).digest())
    ]


def begun(found: Sequence[Conversation], system: str | None) -> tuple[Conversation, ...]:
    """Each conversation that has no system message with this one; None changes nothing.

    >>> begun([asked("a", "b")], "Be brief.")[0].messages[0]
    ('system', 'Be brief.')
    """
    if system is None:
        return tuple(found)
    return tuple(
        one if one.messages[0][0] == SYSTEM else one._replace(messages=((SYSTEM, system), *one.messages))
        for one in found
    )
