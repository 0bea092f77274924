"""Functions that are Flax models, through `lora` itself: quantised bases, and NNX models beside what `inject` gives."""

import jax
import numpy as np
import pytest
from flax import nnx

import lora_jax
from lora_jax.leaves import is_adapter_leaf
from lora_jax.products.function import lora
from lora_jax.tree import flat
from tests.cases import CASES, DORA, every_case
from tests.nnx_cases import CASES as NNX

pytestmark = pytest.mark.usefixtures("quick_compile")


def close(got, expected, tolerance: float = 1e-5) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (
            np.abs(np.asarray(one, np.float64) - other).max() <= tolerance * np.abs(np.asarray(other, np.float64)).max()
        )


@every_case
def test_nothing_is_formed(case):
    told = []
    jax.eval_shape(lora(case.base_apply(), dense_uses=told), case.params(), case.x())
    assert told == []


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
    close(got, case.base_apply()(lora_jax.merge(params), case.x()))
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
