"""BERT-tiny as a classifier: random weights, no dropout, 32 sentences of 64 tokens, r = 8 on query and value, AdamW.

Beside the adapters the output layer trains, and the pooler does not, as with PEFT's `modules_to_save=["classifier"]`.
Speed depends on neither weights nor ids. Letters: N examples, T tokens, S steps, B batch.
"""

import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.benchmarks import setting
from lora_jax import training
from lora_jax.models import bert

CONFIG = bert.BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
BATCH, TOKENS, RANK, RATE, DECAY = 32, 64, 8, 1e-3, 0.01
EXAMPLES = 4096
HEAD = "classifier"


class WholeLastLayer(bert.BertForSequenceClassification):
    """The classifier as Hugging Face has it: all tokens of the last layer are computed, though only the first is read.

    Ours computes the last layer for the first token alone. Its logits are the same; its FLOPs are fewer.
    """

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, *, train: bool = False) -> jax.Array:
        _, pooled = self.bert(input_ids, attention_mask, token_type_ids, train=train)
        return self.classifier(self.dropout(pooled, deterministic=not train))


def data(tokens: int = TOKENS) -> dict[str, jax.Array]:
    """{"x" int32 [N, T], "y" int32 [N]}: noise, without padding."""
    x = jax.random.randint(jax.random.key(0), (EXAMPLES, tokens), 1, CONFIG.vocab_size, jnp.int32)
    return {"x": x, "y": jax.random.randint(jax.random.key(1), (EXAMPLES,), 0, 2, jnp.int32)}


def base() -> dict:
    return jax.jit(bert.BertForSequenceClassification(CONFIG).init)(jax.random.key(3), example())["params"]


def example() -> jax.Array:
    """Ids that show a model its input, [1, 8]."""
    return jnp.ones((1, 8), jnp.int32)


def wrapped(classifier=bert.BertForSequenceClassification) -> lora_jax.LoRA:
    targets = ("query", "value")
    return lora_jax.LoRA(classifier(CONFIG), lora_jax.LoRAConfig(rank=RANK, alpha=RANK, targets=targets))


def optimizer(rate: float | jax.Array = RATE) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=DECAY)


def lora(classifier=bert.BertForSequenceClassification) -> setting.Rival:
    model = wrapped(classifier)
    params = setting.adapted(model, base(), example())
    return _rival(model, params, HEAD)


def full(classifier=bert.BertForSequenceClassification) -> setting.Rival:
    return _rival(classifier(CONFIG), base(), "*")


def _rival(model, params, train: str) -> setting.Rival:
    mask = lora_jax.trainable_mask(params, train=train)
    return setting.rival(loss(model), optimizer(), params, mask, data(), BATCH)


def loss(model) -> training.LossFn:
    """The mean cross-entropy of `batch = {"x" [B, T], "y" [B]}`, with the padding, id 0, masked as in real training."""

    def loss_fn(params, batch, key):
        logits = model.apply({"params": params}, batch["x"], batch["x"] != 0, train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    return loss_fn
