"""How good answers are, in numbers: loss, discrimination, and what can be counted in the outputs.

Letters: N prompts, T tokens, C candidates.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.errors import UserError
from experiments.data import packing
from experiments.lm import answers, speaker
from experiments.lm.settings import CANDIDATES as CANDIDATES
from lora_jax.models.token_loss import token_losses
from lora_jax.training import make_evaluation

AT_ONCE = 4  # questions with their candidates
REPEATED = 3  # an n-gram of this length ...
TIMES = 3  # ... that comes so often makes an output repetitive
COPIED = 0.6  # the share of an output's words that stand in the question, in a row


def candidates(examples: Sequence[packing.Example], seed: int = 0) -> np.ndarray:
    """int [N, C]: for each question the answers it is offered, its own first, the others drawn without repetition."""
    rng = np.random.default_rng(seed)
    n = len(examples)
    others = np.stack([rng.choice(n - 1, CANDIDATES - 1, replace=False) for _ in range(n)])
    others += others >= np.arange(n)[:, None]
    return np.concatenate([np.arange(n)[:, None], others], axis=1)


def offered(examples: Sequence[packing.Example], chosen: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """{"ids", "scored"} [N, C, T]: each question with each of its candidates, cut to `length` where they do not fit."""
    ids = np.zeros((*chosen.shape, length), np.int32)
    scored = np.zeros(ids.shape, bool)
    for asked, told in enumerate(chosen):
        question = examples[asked]
        for place, answer in enumerate(examples[j] for j in told):
            sequence = [*question.ids[: question.answer_at], *answer.ids[answer.answer_at :]][:length]
            ids[asked, place, : len(sequence)] = sequence
            scored[asked, place, question.answer_at - 1 : len(sequence) - 1] = True
    return {"ids": ids, "scored": scored}


def knows(model):
    """metric_fn for `Sweep.evaluation` over `offered`: {"right" [B]}, whether a question's own answer, the first, has the
    least loss a token; a tie counts its fair share."""

    def metric_fn(params, batch):
        def right(one):
            losses = answer_losses(model, params, one)
            tied = losses == losses.min()
            return tied[0] / tied.sum()

        return {"right": jax.lax.map(right, batch)}

    return metric_fn


def answer_losses(model, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Nats a token of each row's answer, float32 [B]."""
    states = model.apply({"params": params}, batch["ids"], method="hidden")

    def score(chunk):
        return model.apply({"params": params}, chunk, method="score")

    targets = jnp.roll(batch["ids"], -1, axis=1)
    losses = token_losses(score, states.reshape(-1, states.shape[-1]), targets.reshape(-1)).reshape(targets.shape)
    return jnp.where(batch["scored"], losses, 0).sum(axis=1) / jnp.maximum(batch["scored"].sum(axis=1), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """What a fine-tuned model is asked: `questions` to answer in words, and `offered` answers to tell apart."""

    base: speaker.Base
    questions: tuple[str, ...]
    offered: dict[str, jax.Array]
    max_new_tokens: int = 48

    @classmethod
    def of(cls, base: speaker.Base, held_out: answers.Encoded, count: int, length: int) -> "Judge":
        """The first `count` held-out questions that leave room for an answer; the candidates are each other's answers.

        Raises:
          UserError: for too few of them.
        """
        room = min(cls.max_new_tokens, base.model.config.max_position_embeddings // 2)
        fitting = [i for i, pair in enumerate(held_out.pairs) if speaker.has_room(base, pair.question, room)][:count]
        if len(fitting) < CANDIDATES:
            raise UserError(
                f"{len(fitting)} held-out questions leave room for {room} more tokens; at least {CANDIDATES} are needed: give more, or shorter ones."
            )
        examples = [held_out.examples[i] for i in fitting]
        batch = offered(examples, candidates(examples), length)
        asked = tuple(held_out.pairs[i].question for i in fitting)
        return cls(base, asked, {name: jnp.asarray(leaf) for name, leaf in batch.items()}, room)

    def discrimination(self, evaluate, state, shared) -> jax.Array:
        """Each member's share of questions whose own answer it finds the likeliest, [M]."""
        return evaluate(state, shared, self.offered)["right"] / len(self.questions)

    def outputs(self, trees: Sequence[dict[str, Any]], through) -> list[list[str]]:
        """What each of the models says, greedily."""
        return [
            speaker.outputs(self.base, speaker.Voice(tree, through), self.questions, max_new_tokens=self.max_new_tokens)
            for tree in trees
        ]


def discrimination_of(model, params: Any, judge: Judge) -> float:
    """The same of one model by itself."""
    evaluate = jax.jit(make_evaluation(knows(model), AT_ONCE))
    return float(evaluate(params, judge.offered)["right"]) / len(judge.questions)


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


def rates(questions: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    """The share of outputs of each kind."""
    kinds = collections.Counter(map(kind, questions, outputs))
    return {name: kinds[name] / len(outputs) for name in ("blank", "repetitive", "copied", "other")}
