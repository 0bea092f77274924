"""BERT (Devlin et al. 2018, arXiv:1810.04805): encoder, pooler, classifier and masked-LM head.

Parameter paths are those of Hugging Face's `transformers` with "/" for "."; `bert_folder` reads and writes its files.
Letters: B batch, T tokens, D hidden, H heads, V vocabulary, C classes, P scored positions.
"""

import dataclasses
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax.errors import ModelError

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "relu": nn.relu,
}
INIT = nn.initializers.normal(0.02)  # section A.2 of the paper's code release: every matrix, standard deviation 0.02


@typing.no_type_check  # it validates itself, and says more than a type checker
@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes and rates, named as in Hugging Face's config.json; the defaults are BERT-tiny's (Turc et al. 2019).

    Raises:
      ModelError: for sizes or rates that cannot be, or an activation there is no code for.
    """

    vocab_size: int = 30522
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # before the classifier; None is hidden_dropout_prob

    def __post_init__(self):
        for name in (field.name for field in dataclasses.fields(self) if field.type is int):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"BertConfig: {name} is {value!r}; it must be an integer of 1 or more.")
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"BertConfig: hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                f"{self.num_attention_heads}."
            )
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACTIVATIONS:
            raise ModelError(
                f"BertConfig: hidden_act is {self.hidden_act!r}; there is code for {', '.join(sorted(ACTIVATIONS))}."
            )
        rates = ["hidden_dropout_prob", "attention_probs_dropout_prob"]
        for name in rates + ["classifier_dropout"] * (self.classifier_dropout is not None):
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise ModelError(f"BertConfig: {name} is {getattr(self, name)!r}; it must be a number in [0, 1).")
        if not (_is_number(self.layer_norm_eps) and self.layer_norm_eps > 0):
            raise ModelError(f"BertConfig: layer_norm_eps is {self.layer_norm_eps!r}; it must be a positive number.")

    def with_dropout(self, rate: float) -> "BertConfig":
        """The same sizes, with `rate` at every dropout.

        >>> BertConfig(classifier_dropout=0.3).with_dropout(0.0).classifier_dropout is None
        True
        """
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=None
        )


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class _Embeddings(nn.Module):
    config: BertConfig

    def setup(self):
        c = self.config
        self.word_embeddings = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=INIT)
        self.position_embeddings = nn.Embed(c.max_position_embeddings, c.hidden_size, embedding_init=INIT)
        self.token_type_embeddings = nn.Embed(c.type_vocab_size, c.hidden_size, embedding_init=INIT)
        self.LayerNorm = nn.LayerNorm(epsilon=c.layer_norm_eps)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def __call__(self, input_ids, token_type_ids, *, train: bool):
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ModelError(
                f"BERT was given {input_ids.shape[1]} tokens, and has {self.config.max_position_embeddings} position "
                "embeddings; cut the input."
            )
        positions = self.position_embeddings(jnp.arange(input_ids.shape[1]))[None]  # [1, T, D]
        x = self.word_embeddings(input_ids) + positions + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(x), deterministic=not train)


class _SelfAttention(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, queries, mask, *, train: bool):
        """Context [B, Q, D] for `queries` [B, Q, D] over x [B, T, D]; `mask` [B, T] is True where a token is real."""
        c = self.config
        width = c.hidden_size // c.num_attention_heads

        def heads(name, inputs):
            y = nn.Dense(c.hidden_size, kernel_init=INIT, name=name)(inputs)
            return y.reshape(*inputs.shape[:2], c.num_attention_heads, width)

        q, k, v = heads("query", queries), heads("key", x), heads("value", x)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(width).astype(x.dtype)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = nn.Dropout(c.attention_probs_dropout_prob)(nn.softmax(scores), deterministic=not train)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(queries.shape)


class _Projection(nn.Module):
    """Dense, dropout, residual, LayerNorm: what Hugging Face calls `output`."""

    config: BertConfig

    @nn.compact
    def __call__(self, x, residual, *, train: bool):
        y = nn.Dense(self.config.hidden_size, kernel_init=INIT, name="dense")(x)
        y = nn.Dropout(self.config.hidden_dropout_prob)(y, deterministic=not train)
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, name="LayerNorm")(y + residual)


class _Attention(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, queries, mask, *, train: bool):
        context = _SelfAttention(self.config, name="self")(x, queries, mask, train=train)
        return _Projection(self.config, name="output")(context, queries, train=train)


class _Intermediate(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.config.intermediate_size, kernel_init=INIT, name="dense")(x)
        return ACTIVATIONS[self.config.hidden_act](x)


class _Layer(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, queries, mask, *, train: bool):
        x = _Attention(self.config, name="attention")(x, queries, mask, train=train)
        wide = _Intermediate(self.config, name="intermediate")(x)
        return _Projection(self.config, name="output")(wide, x, train=train)


class _Layers(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, mask, *, train: bool, first_only: bool):
        last = self.config.num_hidden_layers - 1
        states = [x]
        for i in range(self.config.num_hidden_layers):
            queries = x[:, :1] if first_only and i == last else x
            x = _Layer(self.config, name=str(i))(x, queries, mask, train=train)
            states.append(x)
        return states


class _Encoder(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, mask, *, train: bool, first_only: bool):
        return _Layers(self.config, name="layer")(x, mask, train=train, first_only=first_only)


class _Pooler(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, hidden):
        return nn.tanh(nn.Dense(self.config.hidden_size, kernel_init=INIT, name="dense")(hidden[:, 0]))


class BertModel(nn.Module):
    """The encoder with its pooler.

    Call: `input_ids` int32 [B, T]; `attention_mask` [B, T], nonzero where a token is real (default: everywhere);
    `token_type_ids` int32 [B, T] (default: 0). Returns (hidden states, pooled [B, D]): the embeddings' output and one
    state per layer, [B, T, D] each. With `first_only`, the last layer is computed for the first token alone, [B, 1, D],
    which is all that a classifier reads; its numbers are the same. Dropout needs an rng "dropout" when `train`.

    Raises:
      ModelError: for more tokens than position embeddings.

    >>> tiny = BertConfig(vocab_size=11, hidden_size=4, intermediate_size=8)
    >>> (states, pooled), _ = BertModel(tiny).init_with_output(jax.random.key(0), jnp.ones((2, 3), int))
    >>> len(states), states[-1].shape, pooled.shape
    (3, (2, 3, 4), (2, 4))
    """

    config: BertConfig

    def setup(self):
        self.embeddings = _Embeddings(self.config)
        self.encoder = _Encoder(self.config)
        self.pooler = _Pooler(self.config)

    def __call__(
        self, input_ids, attention_mask=None, token_type_ids=None, *, train: bool = False, first_only: bool = False
    ) -> tuple[list[jax.Array], jax.Array]:
        mask = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
        types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.embeddings(input_ids, types, train=train)
        states = self.encoder(x, mask, train=train, first_only=first_only)
        return states, self.pooler(states[-1])


class BertForSequenceClassification(nn.Module):
    """Logits [B, C] from the pooled first token; arguments as for `BertModel`.

    >>> tiny = BertConfig(vocab_size=11, hidden_size=4, intermediate_size=8)
    >>> model = BertForSequenceClassification(tiny, num_labels=3)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((2, 3), int))[0].shape
    (2, 3)
    """

    config: BertConfig
    num_labels: int = 2

    def setup(self):
        self.bert = BertModel(self.config)
        rate = self.config.classifier_dropout
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob if rate is None else rate)
        self.classifier = nn.Dense(self.num_labels, kernel_init=INIT)

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, *, train: bool = False) -> jax.Array:
        _, pooled = self.bert(input_ids, attention_mask, token_type_ids, train=train, first_only=True)
        return self.classifier(self.dropout(pooled, deterministic=not train))

    def features(self, input_ids, attention_mask=None, token_type_ids=None) -> jax.Array:
        """What the pooler reads: the last layer's first token [B, D], without dropout."""
        return self.bert(input_ids, attention_mask, token_type_ids, first_only=True)[0][-1][:, 0]

    def from_features(self, features, *, train: bool = False) -> jax.Array:
        """Logits [B, C] from `features` [B, D]: pooler and classifier alone."""
        pooled = self.bert.pooler(features[:, None])
        return self.classifier(self.dropout(pooled, deterministic=not train))


class _Transform(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.config.hidden_size, kernel_init=INIT, name="dense")(x)
        x = ACTIVATIONS[self.config.hidden_act](x)
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, name="LayerNorm")(x)


class _Predictions(nn.Module):
    config: BertConfig

    def setup(self):
        self.transform = _Transform(self.config)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))


class _MaskedLMHead(nn.Module):
    config: BertConfig

    def setup(self):
        self.predictions = _Predictions(self.config)


class BertForMaskedLM(nn.Module):
    """Logits over the vocabulary, from the embedding matrix itself (tied); the other arguments as for `BertModel`.

    Call: `positions` int32 [B, P] names the tokens to score; returns [B, P, V], or [B, T, V] without it. Scoring
    masked positions only saves most of the cost: at BERT-tiny's size a token's logits cost four times its encoding.

    >>> tiny = BertConfig(vocab_size=11, hidden_size=4, intermediate_size=8)
    >>> model, ids = BertForMaskedLM(tiny), jnp.ones((2, 3), int)
    >>> model.init_with_output(jax.random.key(0), ids, positions=jnp.zeros((2, 1), int))[0].shape
    (2, 1, 11)
    """

    config: BertConfig

    def setup(self):
        self.bert = BertModel(self.config)
        self.cls = _MaskedLMHead(self.config)

    def __call__(
        self, input_ids, attention_mask=None, token_type_ids=None, *, positions=None, train: bool = False
    ) -> jax.Array:
        states, _ = self.bert(input_ids, attention_mask, token_type_ids, train=train)
        return self.score(states[-1], positions)

    def score(self, hidden: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """The head alone: logits [B, P, V] for hidden states [B, T, D]."""
        if positions is not None:
            hidden = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        head = self.cls.predictions
        logits = self.bert.embeddings.word_embeddings.attend(head.transform(hidden))
        return logits + head.bias[None, None]
