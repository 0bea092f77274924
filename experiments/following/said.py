"""What a model says when it is asked: blank, repeated, copied or other, greedily and at a temperature, and word for word for people to read."""

from collections.abc import Sequence

from experiments.lm import judge, speaker
from experiments.lm.speaker import Base, Voice
from lora_jax.models.generation import Sampling

WAYS = {"greedy": Sampling(), "at 0.7": Sampling(temperature=0.7)}
TOKENS = 32


def rates(base: Base, voice: Voice, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Way -> the share of outputs of each kind."""
    return {way: judge.rates(prompts, outputs(base, voice, prompts, sampling)) for way, sampling in WAYS.items()}


def outputs(base: Base, voice: Voice, prompts: Sequence[str], sampling: Sampling = WAYS["greedy"]) -> list[str]:
    """What the model says to each."""
    return speaker.outputs(base, voice, prompts, max_new_tokens=TOKENS, sampling=sampling)


def that_fit(base: Base, prompts: Sequence[str], most: int) -> tuple[str, ...]:
    """The first prompts that leave room for an answer."""
    return tuple(prompt for prompt in prompts if speaker.has_room(base, prompt, TOKENS))[:most]
