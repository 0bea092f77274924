"""What every model of another package has to pass: six bars, one test each.

A test file has a class of `Bars` with a table `MODELS` of functions, each of which makes a `Model`: tiny, with random weights. The batch (5), the
sequence (7) and the rank (3) are as long as no axis of a kernel, convolutions' windows apart, so that an array's shape tells what it
is.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, products
from lora_jax.tree import flat
from tests.products.shapes import depending, kernels

CONFIG = LoRAConfig(rank=3, alpha=4, targets="*")
BATCH, LENGTH = 5, 7


@dataclasses.dataclass
class Model:
    """A model under test: `base(params, *args)` without adapters, `adapted` with them.

    Attributes:
      params: the base's, random.
      uncovered: path of each matrix that no product reads -> what is done with it instead.
      drift: how far a jitted output with fresh adapters may be from the base's, over its largest entry, where XLA fuses the two otherwise.
      tolerance: of side path against merged kernels, over the largest output and the largest gradient of each adapter.
      like: see `lora_jax.lora`.
      config: of the adapters.
      wrapped: the linen wrapper, where there is one.
    """

    base: Callable
    params: Any
    args: tuple
    uncovered: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drift: float = 0.0
    tolerance: float = 1e-5
    like: Any = None
    config: LoRAConfig = CONFIG
    wrapped: LoRA | None = None

    def adapt(self) -> dict[str, Any]:
        key = jax.random.key(1)
        if self.wrapped is not None:
            return lora_jax.adapt(key, self.params, self.wrapped, *self.args)
        return products.adapt(key, self.params, self.base, self.config, *self.args)

    def adapted(self, params: Any) -> Any:
        if self.wrapped is not None:
            return self.wrapped.apply({"params": params}, *self.args)
        return lora_jax.lora(self.base, like=self.like)(params, *self.args)


def linen(module: Any, params: Any, *args: Any, config: LoRAConfig = CONFIG, **about: Any) -> Model:
    """A linen module under `lora_jax.LoRA`."""

    def base(params: Any, *args: Any) -> Any:
        return module.apply({"params": params}, *args)

    return Model(base, params, args, config=config, wrapped=LoRA(module, config), **about)


def nnx_function(model: Any, call: Callable) -> tuple[Callable, dict[str, Any]]:
    """(function of a nested dict of parameters, that dict) of an NNX model, which `call(model, *args)` runs."""
    from flax import nnx

    graph, state, rest = nnx.split(model, nnx.Param, ...)
    states = {"/".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}

    def fn(params: Any, *args: Any) -> Any:
        leaves = flat(params)
        filled = nnx.from_flat_state([(path, leaf.replace(leaves[name])) for name, (path, leaf) in states.items()])
        return call(nnx.merge(graph, filled, rest, copy=True), *args)

    return fn, lora_jax.tree.nested({name: jnp.asarray(leaf.get_value()) for name, (_, leaf) in states.items()})


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Around the import of a foreign package, which may be absent, of another Python, or warn of its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ImportError, SyntaxError) as error:  # typeguard 2 evaluates annotations that Python 3.13 cannot read
            pytest.skip(f"{error}", allow_module_level=True)


def ids(vocabulary: int, batch: int = BATCH, length: int = LENGTH) -> jax.Array:
    """Every id occurs, or as many as there is room for."""
    return (jnp.arange(batch * length) * 5 % vocabulary).reshape(batch, length)


def positions(batch: int = BATCH, length: int = LENGTH) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(length), (batch, length))


def randomised(params: Any, size: float = 0.3) -> Any:
    """Every leaf of a tree drawn, for models that start at zeros somewhere; norms stay near what they were."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf + size * random.normal(size=leaf.shape) / max(leaf.ndim, 1), leaf.dtype), params
    )


class Bars:
    """The tests. A subclass has `MODELS`: name -> function that makes a `Model`; `conftest` makes the fixtures of it."""

    MODELS: Mapping[str, Callable[[], Model]] = {}

    def test_every_matrix_that_a_product_eats_is_covered(self, model, params):
        matrices = {path for path, leaf in products.trees.named(model.params).items() if is_matrix(leaf)}
        assert adapted_paths(params) == matrices - model.uncovered.keys()
        assert model.uncovered.keys() <= matrices

    def test_it_begins_as_the_base(self, model, params):
        got = jax.jit(model.adapted)(params)
        arrays, whole = products.trees.divided(model.params)
        expected = jax.jit(lambda arrays: model.base(whole(arrays), *model.args))(arrays)
        for one, other in floats(got, expected):
            assert np.isfinite(other).all() and np.abs(other).max() > 0
            if model.drift:
                np.testing.assert_allclose(one, other, rtol=0, atol=model.drift * np.abs(other).max())
            else:
                np.testing.assert_array_equal(one, other)

    def test_it_is_the_merged_model_and_so_are_its_gradients(self, model, params):
        found = lora_jax.verify(model.wrapped or as_nested(model), params, *model.args, tolerance=model.tolerance)
        assert found.holds, str(found)

    def test_no_gradient_is_laid_out_as_a_weight(self, model, params):
        factors = {part for part in kernels(params) if len(part) == 2 and model.config.rank in part}
        assert not depending(model.adapted, params) & (kernels(params) - factors)

    def test_four_steps_lower_the_loss_and_what_is_saved_comes_back(self, model, params, tmp_path):
        trained, losses, mask = trained_for(model, params, 4)
        assert losses[-1] < losses[0], losses
        base = flat(lora_jax.strip(params))
        assert all(np.array_equal(leaf, base[path]) for path, leaf in flat(lora_jax.strip(trained)).items())
        lora_jax.checkpoint.save_adapter(tmp_path / "adapter", trained, model.config, mask=mask, collections={})
        back = lora_jax.checkpoint.restore_adapter(tmp_path / "adapter", params, model.config, mask=mask)
        for path, leaf in flat(trained).items():
            np.testing.assert_array_equal(flat(back)[path], leaf)


def is_matrix(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating) and sum(size > 1 for size in leaf.shape) >= 2


def adapted_paths(params: Any) -> set[str]:
    leaves = flat(params)
    return {lora_jax.leaves.kernel_path(leaves, module) for module in lora_jax.leaves.modules(leaves)}


def floats(*trees: Any) -> list[tuple[np.ndarray, ...]]:
    """The floating-point arrays of trees of one structure, side by side."""
    rows = zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)
    return [tuple(map(np.asarray, row)) for row in rows if jnp.issubdtype(row[0].dtype, jnp.floating)]


def as_nested(model: Model) -> Callable:
    """The base as a function of a nested dict, which is what `verify` runs."""
    if model.like is None:
        return model.base
    _, whole = products.trees.divided(model.like)
    order = list(products.trees.named(model.like))
    return lambda params, *args: model.base(whole([flat(params)[path] for path in order]), *args)


def trained_for(model: Model, params: Any, steps: int) -> tuple[Any, list[float], Any]:
    """(trained parameters, the loss before each step and after the last, the mask): towards random outputs."""
    mask = lora_jax.trainable_mask(params)
    tx = lora_jax.lora_optimizer(optax.adam(3e-3), mask)
    frozen, trainable = lora_jax.partition(params, mask)
    random = np.random.default_rng(3)
    wanted = [
        out + random.normal(size=out.shape).astype(out.dtype) for (out,) in floats(jax.jit(model.adapted)(params))
    ]

    def loss(trainable, frozen):
        outs = jax.tree.leaves(model.adapted(lora_jax.combine(frozen, trainable)))
        outs = [out for out in outs if jnp.issubdtype(out.dtype, jnp.floating)]
        return sum(jnp.mean((out - target) ** 2) for out, target in zip(outs, wanted, strict=True))

    step = jax.jit(jax.value_and_grad(loss))
    state, losses = tx.init(params), []
    for _ in range(steps):
        value, gradient = step(trainable, frozen)
        updates, state = tx.update(gradient, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        losses.append(float(value))
    return lora_jax.combine(frozen, trainable), [*losses, float(step(trainable, frozen)[0])], mask
