"""Text from a CausalLM under jit, with a cache of keys and values: one program per shape, whatever the prompts say.

Letters: B prompts, T prompt tokens, N new tokens, V vocabulary, S cache slots.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax.errors import ModelError, shown
from lora_jax.models import generation_inputs
from lora_jax.models.causal_lm import CausalLM, empty_cache
from lora_jax.scalars import integer, number

PREFILL = 512
LEAST = 1e-6  # temperature: logits over a smaller one are infinite


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy.

    `top_k` keeps the k most likely tokens (Fan et al. 2018), 0 all; `top_p` then the fewest whose probabilities reach p
    (Holtzman et al. 2020, section 3.1), 1 all.

    Raises:
      ModelError: for values that mean nothing.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        temperature, top_p = number(self.temperature), number(self.top_p)
        if temperature is None or temperature < 0 or 0 < temperature < LEAST:
            raise ModelError(
                f"temperature is {shown(self.temperature)}; it must be 0 (greedy) or a number of {LEAST} or more."
            )
        if integer(self.top_k) is None or self.top_k < 0:
            raise ModelError(f"top_k is {shown(self.top_k)}; it must be 0 (all tokens) or an integer above.")
        if top_p is None or not 0 < top_p <= 1:
            raise ModelError(f"top_p is {shown(self.top_p)}; it must be a number above 0 and at most 1.")


def generate(
    model: CausalLM,
    params: dict[str, Any],
    prompts: jax.Array,
    lengths: jax.Array,
    key: jax.Array | None = None,
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    stop: int | Sequence[int] | None = None,
    through: nn.Module | None = None,
    prefill: int = PREFILL,
) -> jax.Array:
    """int32 [B, N] new tokens; after a row's stop, which is kept, everything is that stop. It ends when all rows have.

    Args:
      prompts: int32 [B, T], each row's tokens first, then anything.
      lengths: int32 [B], how many of them count; 1 or more.
      key: for sampling; greedy decoding needs none.
      stop: the token, or any of the tokens, that ends a row (`Tokenizer.stop`).
      through: a module that wraps the model (and adds adapters, say), to be applied in its place.
      prefill: prompt tokens of each row that go through the model at once; a longer prompt does so in pieces, in the same program.

    Raises:
      ModelError: for prompt and new tokens that together exceed `max_position_embeddings`, lengths or tokens that cannot be (they are looked
        at where no transformation of JAX traces them), and parameters that `model` does not use, where `through` is None.
    """
    generation_inputs.require_model(model, through)
    if not isinstance(sampling, Sampling):
        raise ModelError(f"generate: sampling is {shown(sampling)}; expected a Sampling, as Sampling(temperature=0.7).")
    more, size = (
        generation_inputs.whole(value, name)
        for name, value in (("max_new_tokens", max_new_tokens), ("prefill", prefill))
    )
    stops = generation_inputs.stops(stop)
    prompts, lengths = generation_inputs.prompts(model, prompts, lengths)
    key = generation_inputs.key(key, sampling.temperature)
    t, most = prompts.shape[1], model.config.max_position_embeddings
    if t + more > most:
        raise ModelError(f"a prompt of {t} tokens and {more} new ones exceed the model's {most} positions.")
    return _generated(model, params, prompts, lengths, key, more, sampling, stops, through, min(size, t))


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "sampling", "stop", "through", "prefill"))
def _generated(
    model, params, prompts, lengths, key, max_new_tokens: int, sampling: Sampling, stop, through, prefill: int
) -> jax.Array:
    if through is None:
        generation_inputs.require_params(model, params)
    stops = jnp.asarray(stop or (-1,), jnp.int32)
    prompts = jnp.where(jnp.arange(prompts.shape[1])[None] < lengths[:, None], prompts, 0)  # beyond a length: anything
    speaking = model if through is None else through

    def extend(ids, positions, cache):
        return speaking.apply({"params": params}, ids, positions, cache, method="extend")

    def choose(states, step):
        logits = speaking.apply({"params": params}, states, method="score").astype(jnp.float32)
        return sample(logits, jax.random.fold_in(key, step), sampling)

    last, cache = _prefilled(extend, model, prompts, lengths, max_new_tokens, prefill)
    first = choose(last, 0)

    def is_going(carry):
        step, token, ended, _, _ = carry
        return (step < max_new_tokens) & ~(ended | _is_any(token, stops)).all()

    def one(carry):
        step, token, ended, cache, made = carry
        states, cache = extend(token[:, None], (lengths + step - 1)[:, None], cache)
        ended |= _is_any(token, stops)
        token = jnp.where(ended, token, choose(states[:, 0], step))
        return step + 1, token, ended, cache, jax.lax.dynamic_update_slice(made, token[:, None], (0, step))

    made = jnp.broadcast_to(first[:, None], (len(first), max_new_tokens))
    carry = (jnp.int32(1), first, jnp.zeros(len(first), bool), cache, made)
    step, token, _, _, made = jax.lax.while_loop(is_going, one, carry)
    return jnp.where(jnp.arange(max_new_tokens)[None] < step, made, token[:, None])


def _is_any(tokens: jax.Array, stops: jax.Array) -> jax.Array:
    return (tokens[:, None] == stops[None]).any(axis=1)


def _prefilled(extend, model: CausalLM, prompts, lengths, more: int, size: int):
    """(the state [B, D] of each prompt's last token, a cache with the prompts and room for `more`), `size` tokens at a time."""
    b, t = prompts.shape
    pieces = -(-t // size)
    prompts = jnp.pad(prompts, ((0, 0), (0, pieces * size - t)))
    cache = empty_cache(model.config, b, pieces * size + more, model.dtype)
    last = jnp.zeros((b, model.config.hidden_size), model.dtype)

    def one(carry, start):
        last, cache = carry
        places = jnp.broadcast_to(start + jnp.arange(size, dtype=jnp.int32), (b, size))
        # What lies beyond a row's length is overwritten before it is seen.
        states, cache = extend(jax.lax.dynamic_slice_in_dim(prompts, start, size, axis=1), places, cache)
        at = lengths - 1 - start
        here = jnp.take_along_axis(states, jnp.clip(at, 0, size - 1)[:, None, None], axis=1)[:, 0]
        return (jnp.where(((at >= 0) & (at < size))[:, None], here, last), cache), None

    return jax.lax.scan(one, (last, cache), size * jnp.arange(pieces, dtype=jnp.int32))[0]


def sample(logits: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """int32 [B], one token for each row of float32 logits [B, V]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = (logits - logits.max(axis=-1, keepdims=True)) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def _nucleus(logits: jax.Array, p: float) -> jax.Array:
    """-inf for what lies beyond the fewest tokens whose probabilities reach p; the likeliest always stays."""
    order = jnp.argsort(-logits, axis=-1)
    ranked = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(ranked, axis=-1) - ranked
    keep = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, before < p, axis=-1, inplace=False)
    return jnp.where(keep, logits, -jnp.inf)
