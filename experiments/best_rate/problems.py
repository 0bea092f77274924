"""What is learned: a frozen base for each seed, data, and the loss whose best rate is asked for.

Letters: S seeds, N examples, D features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.best_rate.settings import HIDDEN, Settings
from experiments.common import devices, phases
from experiments.common.classification import cross_entropy
from experiments.common.pretraining import train_bases
from experiments.common.recording import RunFolder
from experiments.data import buckets
from experiments.data.mnist import Mnist, Split
from experiments.data.sst2 import Texts
from experiments.sst2.inputs import Inputs
from lora_jax import sweep
from lora_jax.models import bert, bert_folder
from lora_jax.models.mlp import MLP
from lora_jax.partition import trainable_mask

ENCODER = "bert/encoder/*"
TOKENS = 32
SENTENCES = 30_000  # to learn from, at most
HEAD_RATE, HEAD_STEPS = 3e-3, 300
TUNING = 5000  # images held out of training, on which a rate is found best; as many of the test images tell its loss
DRAWN = 20_000  # inputs of a linear teacher
DECAY = 0.9  # sigma_i = DECAY^i of what a linear teacher adds to the base


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """`targets` are the layers that adapters sit on, `kernels` the same as full fine-tuning trains them; `bases` are stacked [S, ...]."""

    model: nn.Module
    targets: tuple[str, ...]
    kernels: tuple[str, ...]
    bases: Any
    example: jax.Array
    sets: Callable[[int], dict[str, Any]]  # seed -> {"train", "tuning", "test"}
    loss: Callable[[nn.Module], Callable]  # as lora_jax.training wants it
    score: Callable[[nn.Module], Callable]  # (params, batch) -> {"loss": [B]}
    least: Callable[[int], float] = lambda rank: (
        0.0
    )  # the loss that is left at a rank whatever is done; 0 is full fine-tuning


def linear(settings: Settings) -> Problem:
    """y = x (W0 + delta), delta of geometric singular values, W0 frozen at 0: it would only be added on both sides.

    Inputs are drawn from N(0, I) and come in batches, so that a rate can be too high. The loss that is told is that of the population,
    ||delta - s a b||_F^2, less the least that the rank allows (Eckart-Young): what training has not reached.
    """
    width = HIDDEN["linear"]
    keys = jax.vmap(jax.random.key)(jnp.arange(settings.seeds, dtype=jnp.uint32))
    teachers = jax.jit(jax.vmap(lambda key: _teacher(key, width)))(keys)
    drawn = jax.random.normal(jax.random.key(7), (DRAWN, width))
    white = jnp.sqrt(float(width)) * jnp.eye(width)  # X^T X / N = I: the mean over its rows is the population's

    def sets(seed: int) -> dict[str, Any]:
        of_all = {"x": white, "y": white @ teachers[seed]}
        return {"train": {"x": drawn, "y": drawn @ teachers[seed]}, "tuning": of_all, "test": of_all}

    def score(model: nn.Module):
        def losses(params, batch):
            return {"loss": ((model.apply({"params": params}, batch["x"]) - batch["y"]) ** 2).sum(axis=-1)}

        return losses

    def loss(model: nn.Module):
        return lambda params, batch, key: (score(model)(params, batch)["loss"].mean(), {})

    bases = {"kernel": jnp.zeros((settings.seeds, width, width))}
    least = np.append(np.cumsum(DECAY ** (2.0 * np.arange(width))[::-1])[::-1], 0.0)  # [i]: of rank i
    return Problem(
        nn.Dense(width, use_bias=False), ("*",), ("kernel",), bases, white[:1], sets, loss, score,
        lambda rank: float(least[rank]) if rank else 0.0,
    )  # fmt: skip


def _teacher(key: jax.Array, width: int) -> jax.Array:
    left, right = (jnp.linalg.qr(jax.random.normal(each, (width, width)))[0] for each in jax.random.split(key))
    return (left * DECAY ** jnp.arange(width)[None]) @ right


def mnist(folder: RunFolder, settings: Settings, data: Mnist) -> Problem:
    """A base that reads upright digits learns to read them lying on their side; its hidden layers adapt, its classifier stays."""
    width = HIDDEN["mnist"]
    model = MLP((width, width))
    shuffled = np.random.default_rng(2).permutation(len(data.train.y))
    held_out = min(TUNING, len(shuffled) // 10)
    tuning, train = (
        Split(data.train.x[rows], data.train.y[rows]) for rows in (shuffled[:held_out], shuffled[held_out:])
    )
    test = Split(data.test.x[:TUNING], data.test.y[:TUNING])
    bases, _ = train_bases(
        folder, model, train.on_device(), test.on_device(),
        seeds=settings.seeds, epochs=settings.base_epochs, batch_size=settings.batch_size,
    )  # fmt: skip
    turned = {
        name: _turned(split).on_device() for name, split in (("train", train), ("tuning", tuning), ("test", test))
    }

    def score(model: nn.Module):
        def losses(params, batch):
            logits = model.apply({"params": params}, batch["x"])
            return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])}

        return losses

    return Problem(
        model, ("hidden_*",), ("hidden_*/kernel",), bases, jnp.ones((1, 784)), lambda seed: turned, cross_entropy, score
    )


def sst2(folder: RunFolder, settings: Settings, inputs: Inputs) -> Problem:
    """A BERT whose classifier has been trained on the frozen encoder; then the linear layers of its encoder adapt, and the classifier stays."""
    found = inputs.base.folder
    model = bert.BertForSequenceClassification(found.config.with_dropout(0.0), num_labels=2)
    texts = {"train": inputs.data.train, "tuning": inputs.data.tuning, "test": inputs.data.validation}
    most = {"train": SENTENCES, "tuning": settings.scored, "test": settings.scored}
    encoded = {name: _of_one_length(inputs, part, most[name]) for name, part in texts.items()}

    def logits(model: nn.Module, params, batch):
        return model.apply({"params": params}, batch["x"], batch["x"] != 0)

    def score(model: nn.Module):
        return lambda params, batch: {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits(model, params, batch), batch["y"])
        }

    def loss(model: nn.Module):
        return lambda params, batch, key: (score(model)(params, batch)["loss"].mean(), {})

    bases = _with_heads(folder, settings, model, {"bert": found.params["bert"]}, encoded["train"], loss(model))
    return Problem(
        model, (ENCODER,), (f"{ENCODER}/kernel",), bases, encoded["train"]["x"][:1], lambda seed: encoded, loss, score
    )


def _of_one_length(inputs: Inputs, texts: Texts, most: int) -> dict[str, jax.Array]:
    """The first sentences, cut at one length: every length would be another program."""
    few = Texts(texts.sentences[:most], texts.labels[:most])
    (bucket,) = buckets.encode(inputs.base.tokenizer, few, (TOKENS,))
    return {"x": jnp.asarray(bucket.input_ids), "y": jnp.asarray(bucket.labels, jnp.int32)}


def _with_heads(folder: RunFolder, settings: Settings, model, loaded, train, loss):
    """The base [S, ...] with a head of each seed, which alone is trained."""
    whole = [bert_folder.initialised(model, jax.random.key(seed), loaded)[0] for seed in range(settings.seeds)]
    heads = {"classifier": jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree["classifier"] for tree in whole])}
    rest = {"bert": whole[0]["bert"]}
    trainer = sweep.Sweep(loss, optax.adam, settings.strategy, devices.mesh())
    seeds = range(settings.seeds)
    state = trainer.start(
        heads, trainable_mask(heads, train="*"), learning_rates=[HEAD_RATE] * settings.seeds, seeds=seeds, padded=False
    )
    shape = (HEAD_STEPS if settings.base_epochs > 1 else 5, settings.batch_size)
    order = jax.random.randint(jax.random.key(11), shape, 0, len(train["y"]), jnp.int32)
    state, _ = phases.train(folder, "heads", trainer, state, rest, train, order=lambda block: order, blocks=1)
    return {**sweep.broadcast(rest, settings.seeds), **state.train.trainable}


def _turned(split: Split) -> Split:
    """Every image by a quarter."""
    images = np.rot90(split.x.reshape(-1, 28, 28), axes=(1, 2))
    return Split(np.ascontiguousarray(images).reshape(len(split.x), -1), split.y)
