"""One decoder for Llama and its relatives: Mistral, Qwen 2 and 3, Gemma 1 to 3 (`CausalLMConfig` says what differs).

Llama: Touvron et al. 2023, arXiv:2302.13971: RMSNorm, RoPE, grouped-query attention, SwiGLU. Parameter paths are those of Hugging Face's
`transformers` with "/" for "."; the layers are one, stacked along axis 0.
Letters: B batch, T tokens, D hidden, H query heads, G key/value heads, K head width, L layers, V vocabulary, S cache slots.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from lora_jax.errors import ModelError
from lora_jax.models import attention, rope
from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.causal_config import PRESETS, CausalLMConfig

__all__ = ["PRESETS", "Cache", "CausalLM", "CausalLMConfig", "empty_cache"]

KEPT = "kept"  # what a layer keeps for its backward pass: what its products give; all between is cheaper computed again
FEW = 1  # rows of states
INIT = nn.initializers.normal(0.02)


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


class _Seen(NamedTuple):
    """What every layer is told of the tokens."""

    positions: jax.Array  # int32 [B, T]
    segments: jax.Array | None  # int32 [B, T]; None where a row is one document
    far: rope.Rotation
    near: rope.Rotation | None  # of layers whose window slides, where theirs is another


class _Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467, equation 4), in float32; Gemma's multiplies by 1 + weight."""

    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        is_gemma = self.config.family.is_gemma
        init = nn.initializers.zeros if is_gemma else nn.initializers.ones
        scale = self.param("scale", init, x.shape[-1:]).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.config.rms_norm_eps)
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        return (wide * (1 + scale if is_gemma else scale)).astype(self.dtype)


def _kept(x: jax.Array) -> jax.Array:
    """Named outside of the layer that makes it, so that what an adapter adds is in it."""
    return ad_checkpoint.checkpoint_name(x, KEPT)


def _project(config: CausalLMConfig, dtype: Any, name: str, x: jax.Array, features: int) -> jax.Array:
    """x through the projection of this name of the module that calls this."""
    return _kept(nn.Dense(features, use_bias=config.has_bias(name), kernel_init=INIT, dtype=dtype, name=name)(x))


class _SelfAttention(nn.Module):
    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, cache, is_sliding, seen: _Seen):
        """(context [B, T, D], keys and values of these tokens [B, T, G, K] where there is a cache to keep them in)."""
        c = self.config

        def heads(name, count):
            return _project(c, self.dtype, name, x, count * c.head_size).reshape(*x.shape[:2], count, c.head_size)

        q, k = heads("q_proj", c.num_attention_heads), heads("k_proj", c.num_key_value_heads)
        v = heads("v_proj", c.num_key_value_heads)
        if c.family.has_head_norms:
            q, k = _Norm(c, self.dtype, name="q_norm")(q), _Norm(c, self.dtype, name="k_norm")(k)
        rotation, window = _of_layer(c, is_sliding, seen)
        q, k = rope.rotate(q, rotation), rope.rotate(k, rotation)
        rule = attention.Rule((c.query_pre_attn_scalar or c.head_size) ** -0.5, c.attn_logit_softcapping)
        if cache is None:
            context = _kept(attention.within_documents(q, k, v, seen.segments, rule, window))
        else:
            context = attention.over_cache(q, k, v, cache.keys, cache.values, seen.positions, rule, window)
        new = None if cache is None else Cache(k, v)
        return _project(c, self.dtype, "o_proj", context.reshape(*x.shape[:2], -1), c.hidden_size), new


def _of_layer(config: CausalLMConfig, is_sliding, seen: _Seen) -> tuple[rope.Rotation, Any]:
    """(rotation, window) of a layer; `is_sliding` bool [] is traced where layers differ, and None where all are alike."""
    if is_sliding is None:
        is_near = config.is_sliding[0]
        return seen.near if is_near and seen.near else seen.far, config.sliding_window if is_near else None
    window = jnp.where(is_sliding, config.sliding_window, jnp.iinfo(jnp.int32).max)
    if seen.near is None:
        return seen.far, window
    return jax.tree.map(lambda near, far: jnp.where(is_sliding, near, far), seen.near, seen.far), window


class _MLP(nn.Module):
    """Gated (Shazeer 2020, arXiv:2002.05202, section 2): SwiGLU, Gemma's GeGLU."""

    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        c = self.config
        wide = ACTIVATIONS[c.hidden_act](_project(c, self.dtype, "gate_proj", x, c.intermediate_size))
        wide = wide * _project(c, self.dtype, "up_proj", x, c.intermediate_size)
        return _project(c, self.dtype, "down_proj", wide, c.hidden_size)


class _Layer(nn.Module):
    config: CausalLMConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, cache, is_sliding, seen: _Seen):
        def norm(name, x):
            return _Norm(self.config, self.dtype, name=name)(x)

        attend, mlp = (
            _SelfAttention(self.config, self.dtype, name="self_attn"),
            _MLP(self.config, self.dtype, name="mlp"),
        )
        context, new = attend(norm("input_layernorm", x), cache, is_sliding, seen)
        if self.config.family.has_norms_after:
            x = x + norm("post_attention_layernorm", context)
            x = x + norm("post_feedforward_layernorm", mlp(norm("pre_feedforward_layernorm", x)))
        else:
            x = x + context
            x = x + mlp(norm("post_attention_layernorm", x))
        return x, new


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
            in_axes=(0, 0, nn.broadcast),
            length=c.num_hidden_layers,
        )(c, self.dtype)
        self.norm = _Norm(c, self.dtype)

    def __call__(self, ids, cache, positions, segments):
        c = self.config
        x = self.embed_tokens(ids)
        if c.family.is_gemma:
            x = x * jnp.asarray(c.hidden_size**0.5, x.dtype)
        differ = len(set(c.is_sliding)) > 1
        x, new = self.layers(x, cache, jnp.asarray(c.is_sliding) if differ else None, self._seen(positions, segments))
        return self.norm(x), new

    def _seen(self, positions, segments) -> _Seen:
        c = self.config
        far = rope.rotation(positions, c.head_size, c.rope_theta, c.rope_scaling, self.dtype)
        near = None
        if c.rope_local_base_freq is not None and any(c.is_sliding):
            near = rope.rotation(positions, c.head_size, c.rope_local_base_freq, None, self.dtype)
        return _Seen(positions, segments, far, near)


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
        if segments is None:
            positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape)
        else:
            positions = attention.positions_within(segments)
        return self.model(ids, None, positions, segments)[0]

    def score(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] of states [..., D]."""
        tied = self.config.tie_word_embeddings
        logits = self._attended(hidden) if tied else self.lm_head(hidden)
        cap = self.config.final_logit_softcapping
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def _attended(self, hidden: jax.Array) -> jax.Array:
        if attention.on_accelerator() or hidden.size > FEW * hidden.shape[-1]:
            return self.model.embed_tokens.attend(hidden)
        # One row: XLA on a CPU walks over the table by rows in this order only, which is faster.
        table, rows = nn.dtypes.promote_dtype(self.model.embed_tokens.embedding, hidden, dtype=self.dtype)
        return jnp.moveaxis(jnp.tensordot(table, rows, axes=(1, -1)), 0, -1)

    def extend(self, ids: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """(states [B, T, D], cache with them) of further tokens at `positions` [B, T], one after the other in each row.

        A token sees the slots before the first of these positions: what a row has not filled yet must lie beyond.
        """
        states, new = self.model(ids, cache, positions, None)
        # Once for all layers, after they have read: within the scan over layers the cache would be copied for every token.
        return states, Cache(*(attention.put(*pair, positions) for pair in zip(cache, new, strict=True)))

    @nn.nowrap
    def example(self) -> tuple[jax.Array]:
        """Arguments of a call, for what needs to see one: ids [1, 2].

        >>> CausalLM(CausalLMConfig()).example()[0].shape
        (1, 2)
        """
        return (jnp.zeros((1, 2), jnp.int32),)

    @nn.nowrap
    def torch_module(self, path: str) -> str:
        """What a module of this model is called in torch; "{}" stands for the number of a layer.

        >>> CausalLM(CausalLMConfig()).torch_module("model/layers/self_attn/q_proj")
        'model.layers.{}.self_attn.q_proj'
        """
        return path.replace("/", ".").replace("model.layers.", "model.layers.{}.")
