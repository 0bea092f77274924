"""The losses of a language model: of every token of full rows, or of the gathered places of answers alone."""

import jax
import jax.numpy as jnp
import optax

from lora_jax.models.token_loss import token_losses


def whole_rows(model):
    """`loss_fn(params, batch, key) -> (loss, (total, count))` for batches {"ids", "segments", "scored"} [B, T].

    Without "segments" a row is one document.
    """

    def loss_fn(params, batch, key):
        states = model.apply({"params": params}, batch["ids"], batch.get("segments"), method="hidden")
        targets = jnp.roll(batch["ids"], -1, axis=1)  # a row's last place is never scored
        weights = batch["scored"].astype(jnp.float32)
        return _mean(model, params, states, targets, weights)

    return loss_fn


def gathered(model, *, dropout: bool = False):
    """The same for batches {"ids", "segments" [B, T], "places", "targets", "weights" [B, P]}: no other logits are made.

    Args:
      dropout: whether the adapters' dropout is on.
    """

    def loss_fn(params, batch, key):
        picked = _picked(model, params, batch, rngs={"dropout": key} if dropout else {})
        return _mean(model, params, picked, batch["targets"], batch["weights"])

    return loss_fn


def judged(model):
    """`judge(params, batch) -> (nats, hits)` [B, P] of the places of such batches: whether each target is the likeliest token."""

    def judge(params, batch):
        picked = _picked(model, params, batch, rngs={})

        def row(of):
            states, targets = of
            logits = model.apply({"params": params}, states, method="score").astype(jnp.float32)
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return nats, logits.argmax(axis=-1) == targets

        return jax.lax.map(row, (picked, batch["targets"]))

    return judge


def _picked(model, params, batch, rngs) -> jax.Array:
    """The states at the scored places, [B, P, D]."""
    states = model.apply({"params": params}, batch["ids"], batch["segments"], method="hidden", rngs=rngs)
    return jnp.take_along_axis(states, batch["places"][..., None], axis=1)


def _mean(model, params, states, targets, weights):
    def score(chunk: jax.Array) -> jax.Array:
        return model.apply({"params": params}, chunk, method="score")

    losses = token_losses(score, states.reshape(-1, states.shape[-1]), targets.reshape(-1))
    total, count = (losses * weights.reshape(-1)).sum(), weights.sum()
    return total / jnp.maximum(count, 1), (total, count)
