"""Whether an optimiser treats every entry on its own, found by trying it: zero-padded ranks need one that does."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lora_jax.errors import OptimizerError
from lora_jax.lowrank import pad_rank

# Above 128, the size from which Adafactor factors its second moment; wide and tall, since Muon rescales by shape.
_D, _R, _PADDED = 136, 130, 134


def require_elementwise(optimizer: Callable[[jax.Array], optax.GradientTransformation]) -> None:
    """Raises OptimizerError unless three steps on padded factors equal three steps on the bare ones.

    A behavioural probe rather than a list of names: it also passes what mixes entries harmlessly (clipping by the
    global norm, which zeros do not change) and catches optimisers nobody has listed.
    """
    draws = np.random.default_rng(0).standard_normal((4, 2, _D, _R), np.float32)  # by numpy: XLA compiles for seconds
    bare, padded = jax.jit(functools.partial(_three_steps, optimizer))(draws)
    for name, expected, got in (("a", bare[0], padded[0][:, :_R]), ("b", bare[1], padded[1][:_R])):
        if not np.allclose(expected, got, rtol=1e-5, atol=1e-7):
            _refuse(f"the update of {name} changes with zero padding")
    if np.any(padded[0][:, _R:]) or np.any(padded[1][_R:]):
        _refuse("zero padding does not stay zero")


def _refuse(why: str) -> None:
    raise OptimizerError(
        f"this optimiser mixes the entries of a matrix ({why}), as Adafactor, Muon and Shampoo do; a sweep pads ranks "
        "with zeros and needs an element-wise one, e.g. optax.adamw, optax.sgd or optax.lion."
    )


def _three_steps(optimizer, draws):
    """The factors after three steps with random gradients, bare and zero-padded alike."""
    tx = optimizer(jnp.asarray(1e-2))
    bare, *gradients = [(draw[0], draw[1].T) for draw in draws]
    padded = pad_rank(*bare, _PADDED)
    states = tx.init(bare), tx.init(padded)
    for gradient in gradients:
        bare, state_bare = _step(tx, gradient, states[0], bare)
        padded, state_padded = _step(tx, pad_rank(*gradient, _PADDED), states[1], padded)
        states = state_bare, state_padded
    return bare, padded


def _step(tx, gradient, state, params):
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state
