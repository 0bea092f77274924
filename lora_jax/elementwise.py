"""Whether an optimiser treats every entry on its own, found by trying it: zero-padded ranks need one that does."""

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
    bare, padded = jax.jit(lambda: _three_steps(optimizer))()
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


def _three_steps(optimizer):
    """The factors after three steps with random gradients, bare and zero-padded alike."""
    tx = optimizer(jnp.asarray(1e-2))
    keys = jax.random.split(jax.random.key(0), 4)
    bare = (jax.random.normal(keys[0], (_D, _R)), jax.random.normal(keys[1], (_R, _D)))
    padded = pad_rank(*bare, _PADDED)
    states = tx.init(bare), tx.init(padded)
    for i in range(3):
        key_a, key_b = jax.random.split(jax.random.fold_in(keys[2], i))
        gradient = (jax.random.normal(key_a, (_D, _R)), jax.random.normal(key_b, (_R, _D)))
        bare, state_bare = _step(tx, gradient, states[0], bare)
        padded, state_padded = _step(tx, pad_rank(*gradient, _PADDED), states[1], padded)
        states = state_bare, state_padded
    return bare, padded


def _step(tx, gradient, state, params):
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state
