"""Training as pure functions: a step that differentiates the trainable tree only, an epoch as one scan, evaluation.

A loss is `loss_fn(params, batch, key) -> (loss [], metrics)`, with `params` the whole tree; `metrics` is any tree.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lora_jax import mesh as meshes
from lora_jax import rows
from lora_jax.errors import ConfigError, TreeError
from lora_jax.intake import require_key
from lora_jax.optim import require_transformation
from lora_jax.partition import combine
from lora_jax.scalars import integer
from lora_jax.tree import Params, flat, nested

LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, Any]]


class TrainState(NamedTuple):
    """All that training changes. The key of step i is `fold_in(key, i)`, so a restored state goes on exactly."""

    trainable: Params
    opt_state: Any
    key: jax.Array  # [] typed PRNG key
    step: jax.Array  # [] int32


def init_state(
    trainable: Params, tx: optax.GradientTransformation, key: jax.Array, *, mesh: jax.sharding.Mesh | None = None
) -> TrainState:
    """The state before the first step.

    The trainable leaves and the key are copied: the jitted programs below donate their state, and without a copy a
    head shared with the base would be taken from the caller.

    Args:
      mesh: the leaves lie on it (`lora_jax.mesh.place`); what the optimiser keeps for each then lies as the leaf does.

    >>> int(init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)).step)
    0
    """
    require_transformation(tx, "init_state")
    require_key(key, "init_state")
    if mesh is not None:
        return _on_mesh(trainable, tx, key, mesh)
    return _begun(trainable, tx, key)


def _begun(trainable: Params, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    trainable = jax.tree.map(jnp.array, trainable)
    return TrainState(trainable, tx.init(trainable), jnp.array(key), jnp.zeros((), jnp.int32))


def _on_mesh(trainable: Params, tx: optax.GradientTransformation, key: jax.Array, mesh) -> TrainState:
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    where = {path: leaf for path, leaf in flat(trainable).items() if leaf.sharding.device_set == everywhere.device_set}

    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found = (own for of, own in where.items() if f"/{name}".endswith(f"/{of}") and own.shape == leaf.shape)
        own = next(found, None)
        return everywhere if own is None else own.sharding

    def begin(trainable, key):
        return _begun(trainable, tx, key)

    layout = jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(begin, trainable, key))
    laid = {path: leaf if path in where else meshes.put(leaf, mesh) for path, leaf in flat(trainable).items()}
    return jax.jit(begin, out_shardings=layout)(nested(laid), meshes.put(key, mesh))


def make_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    parts: int = 1,
    weight: Callable[[Any], jax.Array] | None = None,
) -> Callable:
    """`step(state, frozen, batch) -> (state, (loss, metrics))`, not yet jitted.

    The frozen tree is never differentiated.

    Args:
      parts: the rows of a batch are taken in so many parts, one after the other, in the memory of one (gradient accumulation); metrics then
        come back stacked [parts, ...].
      weight: batch -> [], what a loss is a mean over where that is not its rows: scored tokens, say. The step's loss and gradient are the
        means over all parts by it, those of the whole batch at once but for rounding.

    >>> step = make_step(lambda params, batch, key: (jnp.sum(params["w"] * batch), {}), optax.sgd(0.1))
    >>> state, (loss, _) = step(init_state({"w": jnp.ones(())}, optax.sgd(0.1), jax.random.key(0)), {}, jnp.asarray(2.0))
    >>> float(loss), round(float(state.trainable["w"]), 3)
    (2.0, 0.8)
    """

    parts = rows.positive("parts", parts)

    def differentiated(trainable: Params, frozen: Params, batch: Any, key: jax.Array):
        def loss_of(trainable):
            return loss_fn(combine(frozen, trainable), batch, key)

        return jax.value_and_grad(loss_of, has_aux=True)(trainable)

    of_batch = differentiated if parts == 1 else _in_parts(differentiated, parts, weight)

    def step(state: TrainState, frozen: Params, batch: Any):
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradients = of_batch(state.trainable, frozen, batch, key)
        updates, opt_state = tx.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        return TrainState(trainable, opt_state, state.key, state.step + 1), (loss, metrics)

    return step


def _in_parts(differentiated: Callable, parts: int, weight: Callable[[Any], jax.Array] | None) -> Callable:
    """`differentiated` of a batch, part by part: losses and gradients are means by the parts' weights."""

    def of_batch(trainable: Params, frozen: Params, batch: Any, key: jax.Array):
        size = rows.count(batch, "make_step")
        if size % parts:
            raise ConfigError(
                f"parts is {parts}, and a batch has {size} rows, which do not divide into so many equal parts."
            )
        # Every parts-th row, so that a batch that is shared out to devices stays so.
        cut = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)
        weights = jnp.ones(parts) if weight is None else jax.vmap(weight)(cut).astype(jnp.float32)
        shares = weights / jnp.maximum(weights.sum(), jnp.finfo(jnp.float32).tiny)

        def add(sums, part):
            share, number, batch = part
            (loss, metrics), gradients = differentiated(trainable, frozen, batch, jax.random.fold_in(key, number))
            own = jax.tree.map(lambda value: share.astype(value.dtype) * value, (loss, gradients))
            return jax.tree.map(jnp.add, sums, own), metrics

        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable)
        (loss, gradients), metrics = jax.lax.scan(add, zeros, (shares, jnp.arange(parts), cut))
        return (loss, metrics), gradients

    return of_batch


def per_example_gradients(loss_fn: LossFn) -> Callable:
    """`gradients(trainable, frozen, batch, key) -> (losses [B], tree of [B, ...])`: every example's own gradient, not yet jitted.

    Adapters are small, so B gradients of them fit where B gradients of a model would not: for the influence of examples, clipping one by
    one (differential privacy), or the noise scale of a batch. The loss sees each example as a batch of one, with a key of its own.

    >>> gradients = per_example_gradients(lambda params, batch, key: (jnp.sum(params["w"] * batch), None))
    >>> gradients({"w": jnp.ones(())}, {}, jnp.array([1.0, 3.0]), jax.random.key(0))[1]["w"].tolist()
    [1.0, 3.0]
    """

    def gradients(trainable: Params, frozen: Params, batch: Any, key: jax.Array):
        def one(example, key):
            def loss_of(trainable):
                return loss_fn(combine(frozen, trainable), jax.tree.map(lambda leaf: leaf[None], example), key)[0]

            return jax.value_and_grad(loss_of)(trainable)

        return jax.vmap(one)(batch, jax.random.split(key, rows.count(batch, "per_example_gradients")))

    return gradients


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    mesh: jax.sharding.Mesh | None = None,
    parts: int = 1,
    weight: Callable[[Any], jax.Array] | None = None,
) -> Callable:
    """`make_step`, jitted, with the state donated.

    On a mesh the rows of the batch are shared out over its data axis and parameters stay where `lora_jax.mesh.place` laid them; of the
    gradients only the trainable tree's cross between devices.

    >>> step = make_train_step(lambda params, batch, key: (jnp.sum(params["w"] * batch), {}), optax.sgd(0.1))
    >>> state, _ = step(init_state({"w": jnp.ones(())}, optax.sgd(0.1), jax.random.key(0)), {}, jnp.asarray(2.0))
    >>> int(state.step)
    1
    """
    step = make_step(loss_fn, tx, parts=parts, weight=weight)
    return _jitted(lambda state, frozen, batch: step(state, frozen, meshes.cut(batch, mesh, 0)), mesh)


def _jitted(program: Callable, mesh: jax.sharding.Mesh | None) -> Callable:
    """`program(state, ...) -> (state, ...)` compiled, the state donated; on a mesh it comes back laid out as it was given."""
    if mesh is None:
        return jax.jit(program, donate_argnums=0)

    @functools.cache
    def laid(where: tuple, structure: Any) -> Callable:
        return jax.jit(program, donate_argnums=0, out_shardings=(jax.tree.unflatten(structure, where), None))

    def of(state: TrainState) -> Callable:
        leaves, structure = jax.tree.flatten(state)
        return laid(tuple(leaf.sharding for leaf in leaves), structure)

    def run(state: TrainState, *args: Any):
        return of(state)(state, *args)

    run.lower = lambda state, *args: of(state).lower(state, *args)  # as jitted functions have it
    return run


def scan_steps(step: Callable, state: TrainState, frozen: Params, data: Any, order: jax.Array):
    """As many steps as `order` [S, B] has rows of indices into `data` [N, ...]; metrics come back stacked [S].

    >>> tx = optax.sgd(0.25)
    >>> step = make_step(lambda params, batch, key: (jnp.sum(params["w"] * batch), {}), tx)
    >>> state = init_state({"w": jnp.ones(())}, tx, jax.random.key(0))
    >>> state, (losses, _) = scan_steps(step, state, {}, jnp.array([1.0, 2.0]), jnp.array([[0], [1]]))
    >>> losses.tolist()
    [1.0, 1.5]
    """

    rows.require_order(order, data, "scan_steps")

    def body(state, batch):
        return step(state, frozen, jax.tree.map(lambda leaf: leaf[batch], data))

    return jax.lax.scan(body, state, order)


def make_epoch(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    mesh: jax.sharding.Mesh | None = None,
    parts: int = 1,
    weight: Callable[[Any], jax.Array] | None = None,
) -> Callable:
    """`epoch(state, frozen, data, order) -> (state, (losses [S], metrics [S, ...]))`: one `lax.scan`, state donated.

    `data` lies on the device; a batch is gathered there. On a mesh, as `make_train_step`: `data` lies whole on every device, which gathers its
    share of each batch. `parts` and `weight` are those of `make_step`.

    >>> tx = optax.sgd(0.25)
    >>> epoch = make_epoch(lambda params, batch, key: (jnp.sum(params["w"] * batch), {}), tx)
    >>> state = init_state({"w": jnp.ones(())}, tx, jax.random.key(0))
    >>> state, (losses, _) = epoch(state, {}, jnp.array([1.0, 2.0]), jnp.array([[0], [1]]))
    >>> losses.tolist()
    [1.0, 1.5]
    """
    step = make_step(loss_fn, tx, parts=parts, weight=weight)

    def epoch(state: TrainState, frozen: Params, data: Any, order: jax.Array):
        return scan_steps(step, state, frozen, data, meshes.cut(order, mesh, 1))

    return Checked(_jitted(epoch, mesh), "make_epoch")


class Checked:
    """A compiled `run(state, frozen, data, order)` that refuses an order of other rows than the data has; all else is as `run` has it.

    >>> Checked(jax.jit(lambda state, frozen, data, order: data[order]), "run")(None, {}, jnp.arange(3), jnp.array([2])).tolist()
    [2]
    """

    def __init__(self, run: Callable, where: str):
        self._run, self._where = run, where

    def __call__(self, state: Any, frozen: Params, data: Any, order: Any) -> Any:
        rows.require_order(order, data, self._where)
        return self._run(state, frozen, data, order)

    def __getattr__(self, name: str) -> Any:  # lower, say
        return getattr(self._run, name)


def epoch_order(key: jax.Array, epoch: int | jax.Array, size: int, batch_size: int) -> jax.Array:
    """The batches of an epoch: a permutation of range(size) as int32 [size // batch_size, batch_size].

    It depends on (key, epoch) alone, so a resumed run sees the order it would have seen. The last, incomplete batch
    is left out of this epoch; which examples it would hold changes with the epoch.

    >>> epoch_order(jax.random.key(0), 0, 10, 3).shape
    (3, 3)
    """
    require_key(key, "epoch_order")
    if not isinstance(epoch, jax.core.Tracer) and (integer(epoch) is None or integer(epoch) < 0):
        raise ConfigError(f"epoch is {epoch!r}; it must be an integer of at least 0.")
    size, batch_size = rows.positive("size", size), rows.positive("batch_size", batch_size)
    if batch_size > size:
        raise ConfigError(f"batch_size is {batch_size}; it must lie between 1 and the {size} examples at hand.")
    steps = size // batch_size
    shuffled = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    return shuffled[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


def make_evaluation(metric_fn: Callable[[Params, Any], Any], batch_size: int) -> Callable:
    """`evaluate(params, data) -> sums`: metrics summed over all N examples, whatever N is; not yet jitted.

    Args:
      metric_fn: `(params, batch) -> tree of [B, ...]`, one entry per example.
      batch_size: the last batch is padded with example 0 and the padding masked out, so every example counts once.

    >>> evaluate = make_evaluation(lambda params, batch: {"hits": batch > params["w"]}, batch_size=2)
    >>> int(evaluate({"w": 1.5}, jnp.array([1.0, 2.0, 3.0]))["hits"])
    2
    """

    batch_size = rows.positive("batch_size", batch_size)

    def evaluate(params: Params, data: Any):
        size = rows.count(data, "make_evaluation")
        steps = -(-size // batch_size)
        batches = jnp.arange(steps * batch_size, dtype=jnp.int32).reshape(steps, batch_size)

        def one_batch(batch):
            real = batch < size
            metrics = metric_fn(params, jax.tree.map(lambda leaf: leaf[jnp.where(real, batch, 0)], data))
            return jax.tree.map(lambda m: _masked_sum(m, real), metrics)

        return jax.tree.map(lambda sums: sums.sum(axis=0), jax.lax.map(one_batch, batches))

    return evaluate


def _masked_sum(metric: jax.Array, real: jax.Array) -> jax.Array:
    if jnp.shape(metric)[:1] != real.shape:
        raise TreeError(
            f"make_evaluation: a metric is {jnp.shape(metric)}; it has one entry for each of the {real.size} examples of a batch."
        )
    mask = real.reshape(-1, *[1] * (metric.ndim - 1))
    return jnp.where(mask, metric, jnp.zeros((), metric.dtype)).sum(axis=0)
