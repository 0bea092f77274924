"""Cross-entropy of a language model's output layer, a few hundred rows at a time.

Letters: N rows (tokens that are scored), C chunks of n rows, D hidden, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Jaxpr, Var

CHUNK = 512  # rows; their logits then stay in a CPU's cache (measured in docs/decisions/performance.md)


def token_losses(
    score: Callable[[jax.Array], jax.Array], states: jax.Array, targets: jax.Array, *, chunk: int = CHUNK
) -> jax.Array:
    """Nats float32 [N] of `targets` int32 [N] under `score(states)`, for states [N, D].

    The logits [N, V] never exist as a whole, forward or backward. Where the parameters of `score` are frozen, the gradient of the states
    is made along with the losses, from the same logits; where they train, each chunk's logits are computed again. Reverse-mode
    differentiation only.

    Args:
      score: states [n, D] -> logits [n, V], each row by itself.

    >>> losses = token_losses(lambda x: x, jnp.zeros((3, 4)), jnp.array([0, 1, 2]), chunk=2)
    >>> [round(float(loss), 3) for loss in losses]
    [1.386, 1.386, 1.386]
    """
    n = len(targets)
    chunk = min(chunk, n)
    pad = -n % chunk
    states = jnp.pad(states, ((0, pad), (0, 0))).reshape(-1, chunk, states.shape[-1])
    targets = jnp.pad(targets, (0, pad)).reshape(-1, chunk)
    # What `score` reads becomes an argument: so it is known which of it trains, and nothing of another trace is closed over. (A wrapper of its
    # own, since JAX remembers traces by function.)
    traced = jax.make_jaxpr(lambda x: score(x))(states[0])
    consts = zip(traced.jaxpr.constvars, traced.consts, strict=True)
    read = _read(traced.jaxpr)
    parameters = [value if of in read else jax.lax.stop_gradient(value) for of, value in consts]
    return _losses(traced.jaxpr, states, targets, parameters).reshape(-1)[:n]


def _read(program: Jaxpr) -> set:
    """The variables that its outputs come from. A wrapper hands over adapters of all layers, of which a head reads its own."""
    read = {of for of in program.outvars if isinstance(of, Var)}
    for equation in reversed(program.eqns):
        if not read.isdisjoint(equation.outvars):
            read |= {of for of in equation.invars if isinstance(of, Var)}
    return read


def _chunk(score: Jaxpr, states: jax.Array, targets: jax.Array, parameters: list) -> jax.Array:
    (logits,) = jax.core.eval_jaxpr(score, parameters, states)
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(score: Jaxpr, states: jax.Array, targets: jax.Array, parameters: list) -> jax.Array:
    return jax.lax.map(lambda of: _chunk(score, *of, parameters), (states, targets))


def _forward(score: Jaxpr, states: Any, targets: Any, parameters: list):
    """The losses [C, n], and a function of their cotangents [C, n]: those of the states and of each parameter, None for what does not train."""
    trains = [of.perturbed for of in (states, *parameters)]
    values = [of.value for of in (states, *parameters)]
    if any(trains[1:]):
        return _again(score, values, targets.value, trains)
    return _at_once(score, values, targets.value)


def _at_once(score, values, targets):
    """A row's gradient is its cotangent times the gradient of its own loss, which can be made before the cotangent is known."""
    states, *parameters = values

    def one(of):
        losses, pull = jax.vjp(lambda states: _chunk(score, states, of[1], parameters), of[0])
        return losses, pull(jnp.ones_like(losses))[0]

    losses, gradients = jax.lax.map(one, (states, targets))

    def pulled(gradients, cotangents):
        return [(cotangents[..., None] * gradients).astype(gradients.dtype), *[None] * len(parameters)]

    return losses, jax.tree_util.Partial(pulled, gradients)


def _again(score, values, targets, trains):
    """The gradient of parameters sums over rows by their cotangents: the logits are made once more when these are known."""

    def of(trained):
        given = iter(trained)
        states, *parameters = [next(given) if has else value for has, value in zip(trains, values, strict=True)]
        one = jax.checkpoint(lambda of: _chunk(score, *of, parameters))
        return jax.lax.map(one, (states, targets))

    losses, pull = jax.vjp(of, [value for has, value in zip(trains, values, strict=True) if has])

    def pulled(pull, cotangents):
        given = iter(pull(cotangents)[0])
        return [next(given) if has else None for has in trains]

    return losses, jax.tree_util.Partial(pulled, pull)


def _backward(score: Jaxpr, pulled: Callable, cotangents: jax.Array):
    of_states, *of_parameters = pulled(cotangents)
    return of_states, None, of_parameters


_losses.defvjp(_forward, _backward, symbolic_zeros=True)
