"""The encoder of BERT, RoBERTa and DistilBERT: embeddings, and layers of attention and two dense ones.

Letters: B batch, T tokens, Q queries, D hidden, H heads.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax.errors import ModelError
from lora_jax.models import padded_attention
from lora_jax.models.bert_config import ACTIVATIONS, BertConfig

INIT = nn.initializers.normal(0.02)  # section A.2 of BERT's code release: every matrix, standard deviation 0.02


def positions(input_ids: jax.Array, config: BertConfig) -> jax.Array:
    """int32 [1, T], or [B, T] where they are counted (see `bert_config`).

    >>> positions(jnp.array([[5, 5, 1, 5, 1]]), BertConfig(model_type="roberta")).tolist()
    [[2, 3, 1, 4, 1]]
    """
    if not config.family.counts_positions:
        return jnp.arange(input_ids.shape[1])[None]
    is_token = (input_ids != config.pad_token_id).astype(jnp.int32)
    return jnp.cumsum(is_token, axis=1) * is_token + config.pad_token_id


class Embeddings(nn.Module):
    """Words, positions and types [B, T, D]."""

    config: BertConfig
    dtype: Any

    def setup(self):
        c = self.config

        def table(rows):
            return nn.Embed(rows, c.hidden_size, embedding_init=INIT, dtype=self.dtype)

        self.word_embeddings = table(c.vocab_size)
        self.position_embeddings = table(c.max_position_embeddings)
        if c.type_vocab_size:
            self.token_type_embeddings = table(c.type_vocab_size)
        self.LayerNorm = nn.LayerNorm(epsilon=c.layer_norm_eps, dtype=self.dtype)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def __call__(self, input_ids, token_type_ids, *, train: bool):
        self._require_room(input_ids.shape[1])
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions(input_ids, self.config))
        if self.config.type_vocab_size:
            types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type_embeddings(types)
        elif token_type_ids is not None:
            raise ModelError(f"a {self.config.model_type} has no token types; leave token_type_ids out.")
        return self.dropout(self.LayerNorm(x), deterministic=not train)

    def _require_room(self, tokens: int):
        c = self.config
        if tokens <= c.max_tokens:
            return
        taken = c.max_position_embeddings - c.max_tokens
        more = f", the first {taken} of them for padding" if taken else ""
        raise ModelError(
            f"the {c.model_type} was given {tokens} tokens, and has {c.max_position_embeddings} position embeddings{more}; "
            f"cut the input to {c.max_tokens}."
        )


class _SelfAttention(nn.Module):
    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, queries, mask, *, train: bool):
        """Context [B, Q, D] for `queries` [B, Q, D] over x [B, T, D]; `mask` [B, T] is True where a token is real."""
        c = self.config

        def heads(name, inputs):
            y = nn.Dense(c.hidden_size, kernel_init=INIT, dtype=self.dtype, name=name)(inputs)
            return y.reshape(*inputs.shape[:2], c.num_attention_heads, c.hidden_size // c.num_attention_heads)

        def drop(weights):
            return nn.Dropout(c.attention_probs_dropout_prob)(weights, deterministic=False)

        q, k, v = heads("query", queries), heads("key", x), heads("value", x)
        drops = train and c.attention_probs_dropout_prob > 0
        return padded_attention.attend(q, k, v, mask, drop if drops else None).reshape(queries.shape)


class _Projection(nn.Module):
    """Dense, dropout, residual, LayerNorm: what BERT calls `output`."""

    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, residual, *, train: bool):
        y = nn.Dense(self.config.hidden_size, kernel_init=INIT, dtype=self.dtype, name="dense")(x)
        y = nn.Dropout(self.config.hidden_dropout_prob)(y, deterministic=not train)
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype, name="LayerNorm")(y + residual)


class _Attention(nn.Module):
    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, queries, mask, *, train: bool):
        context = _SelfAttention(self.config, self.dtype, name="self")(x, queries, mask, train=train)
        return _Projection(self.config, self.dtype, name="output")(context, queries, train=train)


class _Intermediate(nn.Module):
    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.config.intermediate_size, kernel_init=INIT, dtype=self.dtype, name="dense")(x)
        return ACTIVATIONS[self.config.hidden_act](x)


class _Layer(nn.Module):
    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, queries, mask, *, train: bool):
        x = _Attention(self.config, self.dtype, name="attention")(x, queries, mask, train=train)
        wide = _Intermediate(self.config, self.dtype, name="intermediate")(x)
        return _Projection(self.config, self.dtype, name="output")(wide, x, train=train)


class _Layers(nn.Module):
    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, mask, *, train: bool, first_only: bool):
        last = self.config.num_hidden_layers - 1
        states = [x]
        for i in range(self.config.num_hidden_layers):
            queries = x[:, :1] if first_only and i == last else x
            x = _Layer(self.config, self.dtype, name=str(i))(x, queries, mask, train=train)
            states.append(x)
        return states


class Encoder(nn.Module):
    """The layers: the states before the first and after each, of `first_only` the last for the first token alone."""

    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x, mask, *, train: bool, first_only: bool):
        return _Layers(self.config, self.dtype, name="layer")(x, mask, train=train, first_only=first_only)


class Pooler(nn.Module):
    """[B, D] of the first token."""

    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, hidden):
        dense = nn.Dense(self.config.hidden_size, kernel_init=INIT, dtype=self.dtype, name="dense")
        return nn.tanh(dense(hidden[:, 0]))
