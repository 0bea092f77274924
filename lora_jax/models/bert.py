"""BERT (Devlin et al. 2018, arXiv:1810.04805), RoBERTa (Liu et al. 2019, arXiv:1907.11692) and DistilBERT (Sanh et al. 2019, arXiv:1910.01108).

One encoder, whose config's `model_type` says what differs (`bert_config` has the table); classifier and masked-LM head. Parameter paths
are those of BERT in Hugging Face's `transformers` with "/" for "."; `torch_module` tells the family's own names, and `bert_folder` reads
and writes its files.
Parameters are float32 or what they are read as; `dtype` is what is computed in, LayerNorm and softmax always in float32.
Letters: B batch, T tokens, D hidden, V vocabulary, C classes, P scored positions.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax.models import bert_names
from lora_jax.models.bert_config import ACTIVATIONS, BertConfig
from lora_jax.models.bert_encoder import INIT, Embeddings, Encoder, Pooler

__all__ = ["ACTIVATIONS", "INIT", "BertConfig", "BertForMaskedLM", "BertForSequenceClassification", "BertModel"]


class _Known:
    """What each of the models tells of itself."""

    config: BertConfig

    def example(self) -> tuple[jax.Array]:
        """The arguments of a call.

        >>> BertModel(BertConfig()).example()[0].shape
        (1, 1)
        """
        return (jnp.ones((1, 1), jnp.int32),)

    def torch_module(self, path: str) -> str:
        """What torch calls a module of this model.

        >>> model = BertForSequenceClassification(BertConfig(model_type="roberta", type_vocab_size=1))
        >>> model.torch_module("bert/encoder/layer/0/attention/self/query"), model.torch_module("classifier/out_proj")
        ('roberta.encoder.layer.0.attention.self.query', 'classifier.out_proj')
        """
        return bert_names.module(self.config.model_type, path)


class BertModel(_Known, nn.Module):
    """The encoder, with its pooler where the family has one and `has_pooler`.

    Call: `input_ids` int32 [B, T]; `attention_mask` [B, T], nonzero where a token is real (default: everywhere);
    `token_type_ids` int32 [B, T] (default: 0). Returns (hidden states, pooled [B, D] or None): the embeddings' output and one
    state per layer, [B, T, D] each. With `first_only`, the last layer is computed for the first token alone, [B, 1, D],
    which is all that a classifier reads; its numbers are the same. Dropout needs an rng "dropout" when `train`.

    Raises:
      ModelError: for more tokens than the config's `max_tokens`, or token types where there are none.

    >>> tiny = BertConfig(vocab_size=11, hidden_size=4, intermediate_size=8)
    >>> (states, pooled), _ = BertModel(tiny).init_with_output(jax.random.key(0), jnp.ones((2, 3), int))
    >>> len(states), states[-1].shape, pooled.shape
    (3, (2, 3, 4), (2, 4))
    """

    config: BertConfig
    dtype: Any = jnp.float32
    has_pooler: bool = True

    def setup(self):
        self.embeddings = Embeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, self.dtype)
        if self.has_pooler and self.config.family.has_pooler:
            self.pooler = Pooler(self.config, self.dtype)

    def __call__(
        self, input_ids, attention_mask=None, token_type_ids=None, *, train: bool = False, first_only: bool = False
    ) -> tuple[list[jax.Array], jax.Array | None]:
        mask = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
        x = self.embeddings(input_ids, token_type_ids, train=train)
        states = self.encoder(x, mask, train=train, first_only=first_only)
        return states, self.pooler(states[-1]) if self.has_pooler and self.config.family.has_pooler else None

    def torch_module(self, path: str) -> str:
        """What torch calls a module of this model.

        >>> BertModel(BertConfig()).torch_module("encoder/layer/0/output/dense")
        'encoder.layer.0.output.dense'
        """
        return bert_names.module_alone(self.config.model_type, path)


class _ClassificationHead(nn.Module):
    """RoBERTa's and DistilBERT's, of the first token [B, D]."""

    config: BertConfig
    num_labels: int
    dtype: Any

    @nn.compact
    def __call__(self, first, *, train: bool):
        is_roberta, drop = self.config.family.prefix == "roberta", nn.Dropout(self.config.classifier_rate)
        x = drop(first, deterministic=not train) if is_roberta else first
        x = nn.Dense(self.config.hidden_size, kernel_init=INIT, dtype=self.dtype, name="dense")(x)
        x = drop(nn.tanh(x) if is_roberta else nn.relu(x), deterministic=not train)
        return nn.Dense(self.num_labels, kernel_init=INIT, dtype=self.dtype, name="out_proj")(x)


class BertForSequenceClassification(_Known, nn.Module):
    """Logits float32 [B, C] of the first token; arguments as for `BertModel`. `labels` are the words of the classes, for whoever shows them.

    >>> tiny = BertConfig(vocab_size=11, hidden_size=4, intermediate_size=8)
    >>> model = BertForSequenceClassification(tiny, num_labels=3)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((2, 3), int))[0].shape
    (2, 3)
    """

    config: BertConfig
    num_labels: int = 2
    dtype: Any = jnp.float32
    labels: tuple[str, ...] | None = None

    def setup(self):
        self.bert = BertModel(self.config, self.dtype, has_pooler=self.config.family.pools_first)
        if self.config.family.pools_first:
            self.dropout = nn.Dropout(self.config.classifier_rate)
            self.classifier = nn.Dense(self.num_labels, kernel_init=INIT, dtype=self.dtype)
        else:
            self.classifier = _ClassificationHead(self.config, self.num_labels, self.dtype)

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, *, train: bool = False) -> jax.Array:
        states, pooled = self.bert(input_ids, attention_mask, token_type_ids, train=train, first_only=True)
        return self._logits(states[-1][:, 0] if pooled is None else pooled, train)

    def features(self, input_ids, attention_mask=None, token_type_ids=None) -> jax.Array:
        """What pooler or classifier reads: the last layer's first token [B, D], without dropout."""
        return self.bert(input_ids, attention_mask, token_type_ids, first_only=True)[0][-1][:, 0]

    def from_features(self, features, *, train: bool = False) -> jax.Array:
        """Logits [B, C] from `features` [B, D]: pooler and classifier alone."""
        return self._logits(self.bert.pooler(features[:, None]) if self.config.family.pools_first else features, train)

    def _logits(self, x, train: bool):
        """Of what the pooler gives, or of the first token where the classifier has layers of its own."""
        if self.config.family.pools_first:
            return self.classifier(self.dropout(x, deterministic=not train)).astype(jnp.float32)
        return self.classifier(x, train=train).astype(jnp.float32)


class _Transform(nn.Module):
    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.config.hidden_size, kernel_init=INIT, dtype=self.dtype, name="dense")(x)
        x = ACTIVATIONS[self.config.family.head_act or self.config.hidden_act](x)
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype, name="LayerNorm")(x)


class _Predictions(nn.Module):
    config: BertConfig
    dtype: Any

    def setup(self):
        self.transform = _Transform(self.config, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))


class _MaskedLMHead(nn.Module):
    config: BertConfig
    dtype: Any

    def setup(self):
        self.predictions = _Predictions(self.config, self.dtype)


class BertForMaskedLM(_Known, nn.Module):
    """Logits float32 over the vocabulary, from the embedding matrix itself (tied); the other arguments as for `BertModel`.

    Call: `positions` int32 [B, P] names the tokens to score; returns [B, P, V], or [B, T, V] without it. Scoring
    masked positions only saves most of the cost: at BERT-tiny's size a token's logits cost four times its encoding.
    The pooler, which a BERT is pretrained with and these logits do not read, is there where `has_pooler`; other families have none here.

    >>> tiny = BertConfig(vocab_size=11, hidden_size=4, intermediate_size=8)
    >>> model, ids = BertForMaskedLM(tiny), jnp.ones((2, 3), int)
    >>> model.init_with_output(jax.random.key(0), ids, positions=jnp.zeros((2, 1), int))[0].shape
    (2, 1, 11)
    """

    config: BertConfig
    dtype: Any = jnp.float32
    has_pooler: bool = True

    def setup(self):
        has_pooler = self.has_pooler and self.config.family.pools_first
        self.bert = BertModel(self.config, self.dtype, has_pooler=has_pooler)
        self.cls = _MaskedLMHead(self.config, self.dtype)

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
        return logits.astype(jnp.float32) + head.bias.astype(jnp.float32)[None, None]
