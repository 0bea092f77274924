"""Text from a CausalLM under jit, with a cache of keys and values: one program per shape, whatever the prompts say.

Letters: B prompts, T prompt tokens, N new tokens, V vocabulary, S cache slots.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax.errors import ModelError
from lora_jax.models.causal_lm import CausalLM, empty_cache

PREFILL = 512


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
        if not 0 <= self.temperature < float("inf"):
            raise ModelError(f"temperature is {self.temperature}; it must be 0 (greedy) or more.")
        if self.top_k < 0:
            raise ModelError(f"top_k is {self.top_k}; it must be 0 (all tokens) or more.")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "sampling", "stop", "through", "prefill"))
def generate(
    model: CausalLM,
    params: dict[str, Any],
    prompts: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    stop: int | tuple[int, ...] | None = None,
    through: nn.Module | None = None,
    prefill: int = PREFILL,
) -> jax.Array:
    """int32 [B, N] new tokens; after a row's stop, which is kept, everything is that stop. It ends when all rows have.

    Args:
      prompts: int32 [B, T], each row's tokens first, then anything.
      lengths: int32 [B], how many of them count; 1 or more.
      key: for sampling; not read by greedy decoding.
      stop: the token, or any of the tokens, that ends a row (`Tokenizer.stop`).
      through: a module that wraps the model (and adds adapters, say), to be applied in its place.
      prefill: prompt tokens of each row that go through the model at once; a longer prompt does so in pieces, in the same program.

    Prompt and new tokens together must fit `max_position_embeddings`: ModelError.
    """
    t = prompts.shape[1]
    most = model.config.max_position_embeddings
    if t + max_new_tokens > most:
        raise ModelError(f"a prompt of {t} tokens and {max_new_tokens} new ones exceed the model's {most} positions.")
    stops = jnp.asarray((stop,) if isinstance(stop, int) else stop or (-1,), jnp.int32)
    speaking = model if through is None else through

    def extend(ids, positions, cache):
        return speaking.apply({"params": params}, ids, positions, cache, method="extend")

    def choose(states, step):
        logits = speaking.apply({"params": params}, states, method="score").astype(jnp.float32)
        return sample(logits, jax.random.fold_in(key, step), sampling)

    last, cache = _prefilled(extend, model, prompts, lengths, max_new_tokens, min(prefill, t))
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
    logits = logits / sampling.temperature
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
