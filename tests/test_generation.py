"""Generated text against a loop that computes every step from the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, adapt
from lora_jax.errors import ModelError
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.generation import Sampling, generate, sample
from tests.cases import randomised
from tests.llama_golden import folder, ids, logits, model

pytestmark = pytest.mark.usefixtures("quick_compile")
LENGTHS = jnp.asarray([13, 4, 1])


def slowly(row: list[int], steps: int) -> list[int]:
    params = folder().params
    whole = jax.jit(lambda ids: logits("llama_tied", ids[None], params=params)[0])
    for _ in range(steps):
        padded = np.pad(row, (0, 24 - len(row)))  # one shape; no token sees a later one
        row = [*row, int(whole(jnp.asarray(padded))[len(row) - 1].argmax())]
    return row[-steps:]


def made(**options) -> np.ndarray:
    options = {"max_new_tokens": 6} | options
    return np.asarray(generate(model(), folder().params, ids(), LENGTHS, jax.random.key(0), **options))


def test_greedy_prompts_of_unequal_length_are_continued_as_each_by_itself():
    expected = [slowly(ids()[i, :n].tolist(), 6) for i, n in enumerate(LENGTHS.tolist())]
    assert made().tolist() == expected


def test_what_lies_beyond_a_prompt_does_not_matter():
    other = ids().at[1, 4:].set(0).at[2, 1:].set(5)
    got = generate(model(), folder().params, other, LENGTHS, jax.random.key(0), max_new_tokens=6)
    np.testing.assert_array_equal(got, made())


def test_a_row_that_stops_stays_stopped():
    free = made()
    stop = int(free[0, 2])
    got = made(stop=stop)
    for row, before in zip(got, free, strict=True):
        end = before.tolist().index(stop) if stop in before else len(before)
        assert row[: end + 1].tolist() == before[: end + 1].tolist()
        assert (row[end:] == stop).all()


@pytest.mark.parametrize("prefill", [1, 4, 5, 13])
def test_prompts_in_pieces_are_continued_as_whole_ones(prefill):
    assert made(prefill=prefill).tolist() == made().tolist()


def test_any_of_several_stops_ends_a_row():
    free = made()
    stops = (int(free[0, 2]), int(free[1, 3]))
    got = made(stop=stops)
    for row, before in zip(got, free, strict=True):
        end = next((i for i, token in enumerate(before) if token in stops), len(before))
        assert row[: end + 1].tolist() == before[: end + 1].tolist()
        assert (row[end:] == row[end]).all() if end < len(row) else True


def test_it_ends_when_all_rows_have(monkeypatch):
    """Counted by a callback in the model's output layer: a prompt's last token, then one call a token."""
    calls = []

    class Counting(CausalLM):
        def score(self, hidden):
            jax.debug.callback(lambda: calls.append(1))
            return super().score(hidden)

    free = made()
    stops = tuple(int(row[1]) for row in free)
    generate(
        Counting(model().config), folder().params, ids(), LENGTHS, jax.random.key(0), max_new_tokens=6, stop=stops
    ).block_until_ready()
    jax.effects_barrier()
    assert len(calls) <= 2


def test_an_adapter_speaks():
    wrapped = LoRA(model(), LoRAConfig(rank=2, targets=("*_proj",)))
    params = randomised(adapt(jax.random.key(0), folder().params, wrapped, ids()), seed=0)
    got = generate(model(), params, ids(), LENGTHS, jax.random.key(0), max_new_tokens=6, through=wrapped)
    row = ids()[0].tolist()
    for _ in range(6):
        row.append(int(wrapped.apply({"params": params}, jnp.asarray([row]))[0, -1].argmax()))
    assert got[0].tolist() == row[-6:] and got.tolist() != made().tolist()


def test_one_trace_for_all_prompts_of_a_shape():
    traced = []

    class Counting(CausalLM):
        def score(self, hidden):
            traced.append(hidden.shape)
            return super().score(hidden)

    counting = Counting(model().config)
    generate(counting, folder().params, ids(), LENGTHS, jax.random.key(0), max_new_tokens=6)
    first = len(traced)
    generate(counting, folder().params, ids() * 0 + 3, LENGTHS - 0, jax.random.key(9), max_new_tokens=6)
    assert len(traced) == first > 0
    generate(counting, folder().params, ids(), LENGTHS, jax.random.key(0), max_new_tokens=5)
    assert len(traced) > first  # another length of answers


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0), {0, 1, 2, 3}),
        (Sampling(1.0, top_k=2), {2, 3}),
        (Sampling(1.0, top_k=99), {0, 1, 2, 3}),
        (Sampling(1.0, top_p=0.6), {3}),  # 0.64 alone reaches it
        (Sampling(1.0, top_p=0.7), {2, 3}),
        (Sampling(1.0, top_k=3, top_p=0.95), {1, 2, 3}),  # of three: 0.67, 0.25, 0.09
        (Sampling(0.01), {3}),
        (Sampling(0.0), {3}),
    ],
    ids=str,
)
def test_only_what_the_rule_keeps_is_drawn_and_as_often_as_it_should(sampling, kept, key):
    logits_of = jnp.asarray([0.0, 1.0, 2.0, 3.0])
    drawn = np.asarray(sample(jnp.broadcast_to(logits_of, (4000, 4)), key, sampling))
    assert set(drawn.tolist()) == kept
    if sampling.temperature == 1.0:
        p = np.where([i in kept for i in range(4)], np.exp(np.asarray(logits_of)), 0)
        np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, p / p.sum(), atol=0.04)


def test_a_prompt_longer_than_the_context():
    with pytest.raises(ModelError, match="a prompt of 13 tokens and 20 new ones exceed the model's 32 positions"):
        made(max_new_tokens=20)


@pytest.mark.parametrize(
    ("values", "part"),
    [({"temperature": -1.0}, "temperature is -1.0"), ({"top_k": -1}, "top_k is -1"), ({"top_p": 0.0}, "top_p is 0.0")],
)
def test_rules_that_mean_nothing(values, part):
    with pytest.raises(ModelError, match=part):
        Sampling(**values)
