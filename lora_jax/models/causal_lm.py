"""A Llama-like decoder (Touvron et al. 2023, arXiv:2302.13971): RMSNorm, RoPE, grouped-query attention, SwiGLU.

Parameter paths are those of Hugging Face's `transformers` with "/" for "."; the layers are one, stacked along axis 0.
Letters: B batch, T tokens, D hidden, H query heads, G key/value heads, K head width, L layers, V vocabulary, S cache slots.
"""

import dataclasses
import math
import typing
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from lora_jax.errors import ModelError
from lora_jax.models import attention

KEPT = "kept"  # what a layer keeps for its backward pass: what its products give; all between is cheaper computed again
INIT = nn.initializers.normal(0.02)


@typing.no_type_check  # it validates itself, and says more than a type checker
@dataclasses.dataclass(frozen=True)
class CausalLMConfig:
    """Sizes, named as in Hugging Face's config.json; the defaults are study S4's 25.8 M parameters.

    Raises:
      ModelError: for sizes that cannot be.
    """

    vocab_size: int = 6400
    hidden_size: int = 512
    intermediate_size: int = 1408
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True

    def __post_init__(self):
        for name in (field.name for field in dataclasses.fields(self) if field.type is int):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"CausalLMConfig: {name} is {value!r}; it must be an integer of 1 or more.")
        for name, of in (("num_attention_heads", "hidden_size"), ("num_key_value_heads", "num_attention_heads")):
            if getattr(self, of) % getattr(self, name):
                raise ModelError(
                    f"CausalLMConfig: {of} {getattr(self, of)} is no multiple of {name} {getattr(self, name)}."
                )
        if self.head_size % 2:
            raise ModelError(f"CausalLMConfig: a head is {self.head_size} wide; rotary positions need an even width.")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf):
                raise ModelError(f"CausalLMConfig: {name} is {value!r}; it must be a positive number.")

    @property
    def head_size(self) -> int:
        """K, the width of a head."""
        return self.hidden_size // self.num_attention_heads


PRESETS = {
    "0.3M": CausalLMConfig(1600, 64, 176, 2, 2, 1, 256),
    "1M": CausalLMConfig(3200, 128, 352, 4, 4, 2, 256),
    "3M": CausalLMConfig(6400, 192, 512, 6, 6, 2, 256),
    "10M": CausalLMConfig(6400, 320, 864, 8, 8, 2, 512),
    "26M": CausalLMConfig(),
}


class Cache(NamedTuple):
    """Keys and values of the tokens so far, [L, B, G, K, S] each; a token of position p lies in slot p."""

    keys: jax.Array
    values: jax.Array


def empty_cache(config: CausalLMConfig, batch: int, slots: int, dtype: Any = jnp.float32) -> Cache:
    """A cache of zeros for `slots` tokens.

    >>> empty_cache(PRESETS["0.3M"], 3, 16).keys.shape
    (2, 3, 1, 32, 16)
    """
    shape = (config.num_hidden_layers, batch, config.num_key_value_heads, config.head_size, slots)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864, section 3.2) of x [B, T, *, K], the halves paired as Llama does.

    Dimensions i and i + K/2 turn together by the angle `positions * theta ** (-2i / K)`.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)  # [K/2]
    angle = positions[..., None, None].astype(jnp.float32) * frequency[None, None, None]  # [B, T, 1, K/2]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def _kept(x: jax.Array) -> jax.Array:
    """Named outside of the layer that makes it, so that what an adapter adds is in it."""
    return ad_checkpoint.checkpoint_name(x, KEPT)


class _SelfAttention(nn.Module):
    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, cache, positions, segments):
        """(context [B, T, D], keys and values of these tokens [B, T, G, K] where there is a cache to keep them in)."""
        c = self.config

        def project(name, inputs, features):
            return _kept(nn.Dense(features, use_bias=False, kernel_init=INIT, dtype=self.dtype, name=name)(inputs))

        def heads(name, count):
            return project(name, x, count * c.head_size).reshape(*x.shape[:2], count, c.head_size)

        q = rotate(heads("q_proj", c.num_attention_heads), positions, c.rope_theta)
        k = rotate(heads("k_proj", c.num_key_value_heads), positions, c.rope_theta)
        v = heads("v_proj", c.num_key_value_heads)
        if cache is None:
            context = _kept(attention.within_documents(q, k, v, segments))
        else:
            context = attention.over_cache(q, k, v, cache.keys, cache.values, positions)
        new = None if cache is None else Cache(k, v)
        return project("o_proj", context.reshape(*x.shape[:2], -1), c.hidden_size), new


class _MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202, section 2)."""

    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        def project(name, inputs, features):
            return _kept(nn.Dense(features, use_bias=False, kernel_init=INIT, dtype=self.dtype, name=name)(inputs))

        wide = nn.silu(project("gate_proj", x, self.config.intermediate_size))
        wide = wide * project("up_proj", x, self.config.intermediate_size)
        return project("down_proj", wide, self.config.hidden_size)


class _Layer(nn.Module):
    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, cache, positions, segments):
        def norm(name):
            return nn.RMSNorm(epsilon=self.config.rms_norm_eps, dtype=self.dtype, name=name)

        context, new = _SelfAttention(self.config, self.dtype, name="self_attn")(
            norm("input_layernorm")(x), cache, positions, segments
        )
        x = x + context
        return x + _MLP(self.config, self.dtype, name="mlp")(norm("post_attention_layernorm")(x)), new


class _Decoder(nn.Module):
    config: CausalLMConfig
    dtype: Any
    remat: bool

    def setup(self):
        c = self.config
        self.embed_tokens = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=INIT, dtype=self.dtype)
        policy = None if self.remat else jax.checkpoint_policies.save_only_these_names(KEPT)
        layer = nn.remat(_Layer, prevent_cse=False, policy=policy)
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=c.num_hidden_layers,
        )(c, self.dtype)
        self.norm = nn.RMSNorm(epsilon=c.rms_norm_eps, dtype=self.dtype)

    def __call__(self, ids, cache, positions, segments):
        x, new = self.layers(self.embed_tokens(ids), cache, positions, segments)
        return self.norm(x), new


class CausalLM(nn.Module):
    """The decoder with its output layer, which is the transposed embedding where `tie_word_embeddings`.

    Call: ids int32 [B, T] and optionally `segments` int32 [B, T], the document each token is of (attention and positions
    stay within one; default: one document a row). Returns logits [B, T, V]. Parameters are float32; `dtype` is what is
    computed in. Of a layer the backward pass finds the results of products, and computes the rest again; with `remat` all.

    Raises:
      ModelError: for more tokens than `max_position_embeddings`.

    >>> config = CausalLMConfig(11, 8, 16, 2, 2, 1, 16)
    >>> CausalLM(config).init_with_output(jax.random.key(0), jnp.ones((2, 3), int))[0].shape
    (2, 3, 11)
    """

    config: CausalLMConfig
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self):
        self.model = _Decoder(self.config, self.dtype, self.remat)
        if not self.config.tie_word_embeddings:
            self.lm_head = nn.Dense(self.config.vocab_size, use_bias=False, kernel_init=INIT, dtype=self.dtype)

    def __call__(self, ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        return self.score(self.hidden(ids, segments))

    def hidden(self, ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        """The final states [B, T, D]; `score` makes logits of any of them."""
        if ids.shape[1] > self.config.max_position_embeddings:
            raise ModelError(
                f"the model was given {ids.shape[1]} tokens, and has {self.config.max_position_embeddings} positions; "
                "cut the input."
            )
        segments = jnp.zeros_like(ids) if segments is None else segments
        return self.model(ids, None, attention.positions_within(segments), segments)[0]

    def score(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] of states [..., D]."""
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.attend(hidden)
        return self.lm_head(hidden)

    def extend(self, ids: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """(states [B, T, D], cache with them) of further tokens at `positions` [B, T], one after the other in each row.

        A token sees the slots before the first of these positions: what a row has not filled yet must lie beyond.
        """
        states, new = self.model(ids, cache, positions, None)
        # Once for all layers, after they have read: within the scan over layers the cache would be copied for every token.
        return states, Cache(*(attention.put(*pair, positions) for pair in zip(cache, new, strict=True)))
