"""A talk with a model: lines of standard input are what a user says, and the conversation so far is given to the model each time."""

import sys
from collections.abc import Iterator, Mapping

from experiments.common.errors import UserError
from experiments.data.conversations import ASSISTANT, SYSTEM, USER
from experiments.finetune import speaking as finetune_speaking
from experiments.finetune.base import Base, Voice
from lora_jax.models.generation import Sampling

QUIT = ("/quit", "/exit", "/q")
HELP = ("help", "?")
NEW = "new"


def talk(base: Base, voices: dict[str, Voice], *, system: str | None, max_new_tokens: int, sampling: Sampling) -> None:
    """Answers until the input ends (Ctrl-D, /quit); "/name" changes to another voice, "/new" forgets the conversation.

    A turn whose conversation leaves no room for an answer is told, and dropped.
    """
    speaking = next(iter(voices))
    start = [] if system is None else [(SYSTEM, system)]
    messages = list(start)
    print(f"voices: {', '.join('/' + name for name in voices)}; Ctrl-D ends. Now: {speaking}.", flush=True)
    for number, line in enumerate(_lines()):
        if line in QUIT:
            return
        if line.startswith("/"):
            name = line[1:]
            speaking = name if name in voices else speaking
            messages = list(start) if name in voices or name == NEW else messages
            print(_told(name, speaking, voices), flush=True)
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in line):  # a byte that is no UTF-8
            print("(that is not UTF-8: set the terminal to UTF-8, and ask again)", flush=True)
            continue
        asked = [*messages, (USER, line)]
        try:
            (said,) = finetune_speaking.answers(
                base, voices[speaking], [base.prompt(asked)], max_new_tokens=max_new_tokens, sampling=sampling, seed=number
            )  # fmt: skip
        except UserError as error:
            print(f"({str(error).rstrip('.')}, or say /{NEW})", flush=True)
            continue
        messages = [*asked, (ASSISTANT, said)]
        print(said, flush=True)


def _told(name: str, speaking: str, voices: Mapping[str, Voice]) -> str:
    """The answer to "/name"."""
    if name in voices:
        return f"now: {speaking}"
    if name == NEW:
        return "a new conversation begins"
    names = ", ".join(f"/{voice}" for voice in voices)
    if name in HELP:
        return (
            f"a line is what you say; {names} change who answers (now: {speaking}) and begin anew; /{NEW} begins anew; /help says this; "
            "/quit, /exit or Ctrl-D end."
        )
    return f"there is no voice {name!r}; there are {', '.join(voices)}, and /{NEW}, /help and /quit"


def _lines() -> Iterator[str]:
    """What is typed, blank lines left out; bytes that are no UTF-8 become half surrogate pairs."""
    if sys.stdin is None:  # closed by whoever started this
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        if line.strip():
            yield line.strip()
