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


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "sampling", "stop", "through"))
def generate(
    model: CausalLM,
    params: dict[str, Any],
    prompts: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    stop: int | None = None,
    through: nn.Module | None = None,
) -> jax.Array:
    """int32 [B, N] new tokens; after a row's `stop`, which is kept, everything is `stop`.

    Args:
      prompts: int32 [B, T], each row's tokens first, then anything.
      lengths: int32 [B], how many of them count; 1 or more.
      key: for sampling; not read by greedy decoding.
      through: a module that wraps the model (and adds adapters, say), to be applied in its place.

    Prompt and new tokens together must fit `max_position_embeddings`: ModelError.
    """
    b, t = prompts.shape
    most = model.config.max_position_embeddings
    if t + max_new_tokens > most:
        raise ModelError(f"a prompt of {t} tokens and {max_new_tokens} new ones exceed the model's {most} positions.")

    speaking = model if through is None else through

    def extend(ids, positions, cache):
        return speaking.apply({"params": params}, ids, positions, cache, method="extend")

    def choose(states, key):
        logits = speaking.apply({"params": params}, states, method="score").astype(jnp.float32)
        return sample(logits, key, sampling)

    cache = empty_cache(model.config, b, t + max_new_tokens, model.dtype)
    places = jnp.broadcast_to(jnp.arange(t, dtype=jnp.int32), (b, t))
    states, cache = extend(prompts, places, cache)  # what lies beyond a row's length is overwritten before it is seen
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
    first = choose(last, jax.random.fold_in(key, 0))

    def one(carry, step):
        token, ended, cache = carry
        states, cache = extend(token[:, None], (lengths + step - 1)[:, None], cache)
        new = choose(states[:, 0], jax.random.fold_in(key, step))
        ended |= token == (-1 if stop is None else stop)
        new = jnp.where(ended, token, new)
        return (new, ended, cache), new

    carry = (first, jnp.zeros(b, bool), cache)
    _, rest = jax.lax.scan(one, carry, jnp.arange(1, max_new_tokens, dtype=jnp.int32))
    return jnp.concatenate([first[None], rest]).T


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
