"""What a model says when it is asked: blank, repeated, copied or other, greedily and at a temperature, and word for word for people to read."""

import collections
from collections.abc import Sequence

import tokenizers

from experiments.lm import answers, speaker
from experiments.lm.speaker import Base, Voice
from lora_jax.models.generation import Sampling

WAYS = {"greedy": Sampling(), "at 0.7": Sampling(temperature=0.7)}
TOKENS = 32
KINDS = ("blank", "repetitive", "copied", "other")
REPEATED = 3  # an n-gram of this length ...
TIMES = 3  # ... that comes so often makes an output repetitive
COPIED = 0.6  # the share of an output's words that stand in the question, in a row


def rates(base: Base, voice: Voice, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Way -> the share of outputs of each kind."""
    return {way: shares(prompts, outputs(base, voice, prompts, sampling)) for way, sampling in WAYS.items()}


def outputs(base: Base, voice: Voice, prompts: Sequence[str], sampling: Sampling = WAYS["greedy"]) -> list[str]:
    """What the model says to each."""
    return speaker.outputs(base, voice, prompts, max_new_tokens=TOKENS, sampling=sampling)


def that_fit(tokenizer: tokenizers.Tokenizer, prompts: Sequence[str], most: int, room: int) -> tuple[str, ...]:
    """The first prompts that leave room for an answer in so many tokens."""
    return tuple(prompt for prompt in prompts if len(answers.prompt(tokenizer, prompt)) + TOKENS <= room)[:most]


def kind(question: str, output: str) -> str:
    """ "blank", "repetitive", "copied" or "other": the first that fits."""
    words = output.split()
    if not words:
        return "blank"
    grams = collections.Counter(tuple(words[i : i + REPEATED]) for i in range(len(words) - REPEATED + 1))
    if grams and max(grams.values()) >= TIMES:
        return "repetitive"
    if len(words) >= REPEATED and _longest_common(question.split(), words) >= COPIED * len(words):
        return "copied"
    return "other"


def _longest_common(a: list[str], b: list[str]) -> int:
    """The length of the longest run of words that both have."""
    best, row = 0, [0] * (len(b) + 1)
    for word in a:
        row = [0, *(row[j] + 1 if word == other else 0 for j, other in enumerate(b))]
        best = max(best, *row)
    return best


def shares(prompts: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """Of outputs, by kind."""
    found = collections.Counter(map(kind, prompts, said))
    return {name: found[name] / len(said) for name in KINDS}
