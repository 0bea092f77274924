"""Both mechanisms on the same trees: the engine that follows leaves, and the rules per layer class, on every model of the tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lora_jax
from lora_jax.leaves import is_adapter_leaf
from lora_jax.products.function import lora
from lora_jax.tree import flat
from tests.cases import CASES, DORA, every_case, every_variant
from tests.nnx_cases import CASES as NNX
from tests.products.rules import by_rules

pytestmark = pytest.mark.usefixtures("quick_compile")


def close(got, expected, tolerance: float = 1e-5) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (
            np.abs(np.asarray(one, np.float64) - other).max() <= tolerance * np.abs(np.asarray(other, np.float64)).max()
        )


def gradient(way, params):
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))
    return jax.grad(lambda trainable: jnp.sum(jnp.sin(way(lora_jax.combine(frozen, trainable)))))(trainable)


@every_case
def test_the_engine_computes_what_the_rules_do(case):
    """Outputs and gradients, with adapters that lie beside their kernels."""
    told = []
    run = lora(case.base_apply(), dense_uses=told)
    close(run(case.params(), case.x()), by_rules(case.model())(case.params(), case.x()))
    assert told == []
    got, expected = (
        gradient(lambda params, way=way: way(params, case.x()), case.params()) for way in (run, by_rules(case.model()))
    )
    close(got, expected, 1e-4)


@every_variant
def test_magnitudes_and_factors_that_begin_elsewhere(case):
    run = lora(case.base_apply())
    close(run(case.params(), case.x()), by_rules(case.model())(case.params(), case.x()))


@pytest.mark.parametrize(
    "case",
    [case for case in DORA if case.name.partition("-")[0] in ("attention", "tied_scan_remat")],
    ids=lambda case: case.name,
)
def test_gradients_of_magnitudes(case):
    ways = (lora(case.base_apply()), by_rules(case.model()))
    close(*(gradient(lambda params, way=way: way(params, case.x()), case.params()) for way in ways), 1e-4)


@pytest.mark.parametrize("method", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["dense", "attention", "tied_scan_remat", "tied_scan_remat-dora=True"])
def test_quantised_bases(name, method):
    case = next(case for case in (*CASES, *DORA) if case.name == name)
    model, params = case.model(), case.params()
    base = lora_jax.quantised.quantise(
        lora_jax.strip(params), lora_jax.layout(model.base_module, case.x()), method=method
    )
    params = lora_jax.combine(base, lora_jax.adapter_of(lora_jax.rebase(base, params)))
    told = []
    got = lora(case.base_apply(), dense_uses=told)(params, case.x())
    close(got, by_rules(model)(params, case.x()))
    assert told == []


@pytest.mark.parametrize("case", NNX, ids=lambda case: case.name)
def test_nnx_models_as_functions(case):
    model = case.model()
    graph, params, rest = nnx.split(model.base_module, nnx.Param, ...)
    names = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(params)}
    states = dict(nnx.to_flat_state(params))

    def fn(tree, x):
        leaves = flat(tree)
        state = nnx.from_flat_state([(path, states[path].replace(leaves[name])) for name, path in names.items()])
        return nnx.merge(graph, state, rest, copy=True)(x)

    tree = case.params()
    assert any(map(is_adapter_leaf, flat(tree)))
    close(lora(fn)(tree, case.x()), model.inject(tree)(case.x()))
