"""The losses of a language model: of every token of full rows, or of the gathered places of answers alone."""

import jax
import jax.numpy as jnp

from lora_jax.models.token_loss import token_losses


def whole_rows(model):
    """`loss_fn(params, batch, key) -> (loss, (total, count))` for batches {"ids", "segments", "scored"} [B, T]."""

    def loss_fn(params, batch, key):
        states = model.apply({"params": params}, batch["ids"], batch["segments"], method="hidden")
        targets = jnp.roll(batch["ids"], -1, axis=1)  # a row's last place is never scored
        weights = batch["scored"].astype(jnp.float32)
        return _mean(model, params, states, targets, weights)

    return loss_fn


def gathered(model):
    """The same for batches {"ids", "segments" [B, T], "places", "targets", "weights" [B, P]}: no other logits are made."""

    def loss_fn(params, batch, key):
        states = model.apply({"params": params}, batch["ids"], batch["segments"], method="hidden")
        picked = jnp.take_along_axis(states, batch["places"][..., None], axis=1)  # [B, P, D]
        return _mean(model, params, picked, batch["targets"], batch["weights"])

    return loss_fn


def _mean(model, params, states, targets, weights):
    def score(chunk: jax.Array) -> jax.Array:
        return model.apply({"params": params}, chunk, method="score")

    losses = token_losses(score, states.reshape(-1, states.shape[-1]), targets.reshape(-1))
    total, count = (losses * weights.reshape(-1)).sum(), weights.sum()
    return total / jnp.maximum(count, 1), (total, count)
