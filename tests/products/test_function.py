"""Is the adapted function the merged one, on whatever way a weight reaches its product, and without ever forming the update?"""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRAConfig
from lora_jax.errors import CustomDerivativeWarning, TargetError, TreeError
from lora_jax.products import function
from lora_jax.products.find import find
from lora_jax.products.function import adapt, lora
from lora_jax.products.trees import named
from lora_jax.tree import flat, nested
from tests.products.functions import CASES, FORMED
from tests.products.shapes import depending, kernels, sides

pytestmark = pytest.mark.usefixtures("compiled_alike")
CONFIG = LoRAConfig(rank=2, alpha=3, targets="*")
KEY = jax.random.key(0)


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(name):
    return CASES[name]


@pytest.fixture
def like(case):
    """What `fn` takes, where that is no nested dict."""
    return case.params() if isinstance(case.shapes, list) else None


def fresh(case, dtype=jnp.float32):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CustomDerivativeWarning)
        return adapt(KEY, case.params(dtype), case.fn, CONFIG, case.input(dtype))


def drawn(params, size: float = 0.5) -> dict:
    """Both factors random."""
    random = np.random.default_rng(2)
    leaves = {
        path: jnp.asarray(random.normal(0, size, leaf.shape), leaf.dtype)
        if path.rpartition("/")[2] in ("lora_a", "lora_b")
        else leaf
        for path, leaf in flat(params).items()
    }
    return nested(leaves)


def merged(case, params):
    """What the function gives with `W + scale a b` in place of each kernel."""
    found = flat(lora_jax.merge(params))
    if isinstance(case.shapes, list):
        return case.fn([{"w": found[f"{i}/w"]} for i in range(len(found))], case.input())
    return case.fn(nested(found), case.input())


def ways(case, like):
    """The adapted function, and the merged one: (params) -> outputs."""
    return lambda params: lora(case.fn, like=like)(params, case.input()), lambda params: merged(case, params)


def test_roles(case, name):
    sites = find(case.fn, case.params(), case.input())
    assert {path: site.roles for path, site in sites.items() if site.is_adaptable} == case.roles
    assert [path for path, site in sites.items() if site.dense] == FORMED.get(name, [])


def test_it_begins_as_the_function_itself(case, like):
    got = lora(case.fn, like=like)(fresh(case), case.input())
    np.testing.assert_array_equal(got, case.fn(case.params(), case.input()))


def test_it_is_the_merged_function(case, like):
    params = drawn(fresh(case))
    every = (*ways(case, like), lambda _: case.fn(case.params(), case.input()))
    got, expected, base = jax.jit(lambda params: [way(params) for way in every])(params)
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= 1e-5 * scale and np.abs(expected - base).max() > 1e-2 * scale


def test_gradients_are_those_through_the_merged_function(case, like, name):
    if name == "custom derivative":
        pytest.skip("its own derivative holds for the base alone: see below")
    params = drawn(fresh(case))
    mask = lora_jax.trainable_mask(params)
    frozen, trainable = lora_jax.partition(params, mask)

    def loss(way):
        return lambda trainable: jnp.sum(jnp.sin(way(lora_jax.combine(frozen, trainable))))

    got, expected = jax.jit(lambda trainable: [jax.grad(loss(way))(trainable) for way in ways(case, like)])(trainable)
    for path, leaf in flat(got).items():
        wanted = flat(expected)[path]
        np.testing.assert_allclose(leaf, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=path)
        assert np.abs(wanted).max() > 0 or path.startswith("no:")  # the branch that is not taken


@pytest.mark.parametrize("name", ["gemma", "scan over axis 1"])
def test_gradients_operation_by_operation_are_those_of_one_program(case):
    params = drawn(fresh(case))
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))
    gradient = jax.grad(lambda own: jnp.sum(jnp.sin(lora(case.fn)(lora_jax.combine(frozen, own), case.input()))))
    for path, leaf in flat(gradient(trainable)).items():
        wanted = flat(jax.jit(gradient)(trainable))[path]
        np.testing.assert_allclose(leaf, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=path)


def test_no_array_of_a_weight_s_shape_depends_on_the_adapters(case, like):
    assert not kernel_shaped(case.fn, fresh(case), case.input(), like) & layers(case)


def test_the_test_of_shapes_sees_what_is_formed():
    fn = lambda params, x: x @ params["w"] + jnp.sum(params["w"] ** 2)  # noqa: E731
    params = adapt(
        KEY, {"w": jnp.ones((4, 5))}, fn, dataclasses.replace(CONFIG, roles={"w": "io"}), jnp.ones((2, 7, 4))
    )
    assert (4, 5) in kernel_shaped(fn, params, jnp.ones((2, 7, 4)))


def test_dropout_is_its_own_in_every_product_and_layer(case, like):
    params = drawn(fresh(case))
    run = jax.jit(lambda key: lora(case.fn, like=like, dropout=0.5, key=key)(params, case.input()))
    with_key = lambda seed: run(jax.random.key(seed))  # noqa: E731
    np.testing.assert_array_equal(with_key(1), with_key(1))
    if case.input().dtype == jnp.float32:
        assert np.abs(with_key(1) - with_key(2)).max() > 0
    without = lora(case.fn, like=like, dropout=0.5)(params, case.input())
    np.testing.assert_array_equal(without, lora(case.fn, like=like)(params, case.input()))


def test_under_jit_vmap_and_another_scale(case, like, name):
    params = drawn(fresh(case))
    run = jax.jit(lora(case.fn, like=like))
    expected = lora(case.fn, like=like)(params, case.input())
    scale = np.abs(expected).max()
    assert np.abs(run(params, case.input()) - expected).max() <= 1e-5 * scale
    off = run(lora_jax.scaled(params, 0.0), case.input())
    np.testing.assert_allclose(off, case.fn(case.params(), case.input()), atol=1e-5 * scale)
    assert run._cache_size() == 1
    if name == "ragged":
        return  # JAX maps no ragged_dot over its matrices
    adapters = lora_jax.adapter_of(params)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0 * leaf]), adapters)
    base = lora_jax.strip(params)
    both = jax.jit(jax.vmap(lambda adapter: lora(case.fn, like=like)(lora_jax.combine(base, adapter), case.input())))(
        two
    )
    assert np.abs(both[0] - expected).max() <= 1e-5 * scale and np.abs(both[1] - off).max() <= 1e-5 * scale


@pytest.mark.parametrize("more", [{}, {"init": "pissa", "dora": True}])
def test_kernels_that_are_alike_share_one_program_of_one_model_or_of_several(more):
    config = LoRAConfig(rank=2, targets="*", **more)
    fn = lambda params, x: sum(jnp.sum(x @ w) for w in params.values())  # noqa: E731
    kernels = [jnp.asarray(np.random.default_rng(seed).normal(size=(4, 5)), jnp.float32) for seed in range(3)]
    function._begun.clear_cache()
    one = adapt(KEY, dict(zip(("q", "k"), kernels, strict=False)), fn, config, jnp.ones((2, 4)))
    assert function._begun._cache_size() == 1
    odd = dataclasses.replace(config, rank_pattern={"odd": 3})
    other = adapt(KEY, dict(zip(("q", "v", "odd"), kernels, strict=True)), fn, odd, jnp.ones((2, 4)))
    assert function._begun._cache_size() == 2  # the odd one's rank
    assert other["odd:io"]["lora_a"].shape == (4, 3)
    jax.tree.map(np.testing.assert_array_equal, one["q:io"], other["q:io"])
    assert np.abs(one["q:io"]["lora_a"] - one["k:io"]["lora_a"]).max() > 1e-3


# Helpers of the test of shapes


def kernel_shaped(fn, params, x, like=None) -> set[tuple[int, ...]]:
    """How all arrays that depend on the adapters are laid out, in the whole program of the adapters' gradient, as far as a kernel is so."""
    return depending(lambda params: lora(fn, like=like)(params, x), params) & kernels(params)


def layers(case) -> set[tuple[int, ...]]:
    """Kernels, and the layers of a stack, which a scan would form."""
    leaves = named(case.params())
    shapes = [(leaves[path].shape, roles) for path, roles in case.roles.items()]
    one = {sides(size for size, role in zip(shape, roles, strict=True) if role != "s") for shape, roles in shapes}
    return one | {sides(shape) for shape, _ in shapes}


# What is special


def test_a_derivative_of_its_own_holds_for_the_base_and_the_true_one_for_the_update():
    case = CASES["custom derivative"]
    run, params = lora(case.fn), fresh(case)
    own = jax.grad(lambda x: case.fn(case.params(), x).sum())(case.input())
    np.testing.assert_allclose(jax.grad(lambda x: run(params, x).sum())(case.input()), own, rtol=1e-5)


def test_what_would_be_formed_is_told_or_refused():
    case, told = CASES["weight norm"], []
    params = drawn(adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="plain"), case.input()))
    lora(case.fn, dense_uses=told)(params, case.input())
    assert told == []
    with pytest.raises(
        TargetError, match=r"targets: 'w' matches no layer .*; of w: it reaches mul in the model, which has no rule"
    ):
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="w"), case.input())


def test_an_adapter_whose_weight_is_used_in_another_way_is_exact_and_told():
    """A second use of the kernel that has no rule: W + delta is formed there alone."""
    fn = lambda params, x: x @ params["w"] + jnp.sum(params["w"] ** 2)  # noqa: E731
    base, x, told = {"w": jnp.arange(12.0).reshape(3, 4) / 10}, jnp.ones((2, 3)), []
    with pytest.raises(TargetError, match="of w: it reaches .* which has no rule"):
        adapt(KEY, base, fn, LoRAConfig(rank=2, targets="w"), x)
    params = drawn(adapt(KEY, base, fn, LoRAConfig(rank=2, targets="w", roles={"w": "io"}), x))
    got = lora(fn, dense_uses=told)(params, x)
    np.testing.assert_allclose(got, fn(lora_jax.merge(params), x), rtol=1e-5)
    assert {(use.path, use.use.operation) for use in told} <= {
        ("w", "integer_pow"),
        ("w", "square"),
        ("w", "mul"),
    } and told
    with pytest.raises(TargetError, match="w reaches .* which has no rule: its adapter would need W \\+ delta there"):
        lora(fn, may_form=False)(params, x)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("kw", "targets: 'kw' matches no layer that LoRA can adapt here; closest to 'kw': kv, "),
        ("kv/q", "matches no layer"),
    ],
)
def test_a_pattern_that_selects_nothing(targets, sentence):
    case = CASES["gemma"]
    with pytest.raises(TargetError, match=sentence):
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets=targets), case.input())


def test_what_is_no_array_stays_what_it_is():
    """Flags decide in Python, functions are leaves, and outputs may be anything."""

    def fn(params, x, train, *, scale=1.0, names=("a",)):
        y = params["activation"](x @ params["w"]) * scale if train else x
        return {"y": y, "names": names, "none": None, "train": train}

    tree = {"w": jnp.ones((4, 5)), "activation": jnp.tanh}
    params = drawn(adapt(KEY, tree, fn, CONFIG, jnp.ones((2, 4)), True))
    assert sorted(params) == ["w", "w:io"]
    got = lora(fn, like=tree)(params, jnp.ones((2, 4)), True, scale=0.5, names=("b", "c"))
    expected = fn({**lora_jax.merge(params), "activation": jnp.tanh}, jnp.ones((2, 4)), True, scale=0.5)
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-5)
    assert (got["names"], got["none"], got["train"]) == (("b", "c"), None, True)


@dataclasses.dataclass
class Module:
    """As Equinox has them: a pytree whose methods are the function."""

    w: jax.Array
    bias: jax.Array
    activation: Any = jnp.tanh

    def __call__(self, x):
        return self.activation(x @ self.w + self.bias[None])


jax.tree_util.register_dataclass(Module, data_fields=["w", "bias", "activation"], meta_fields=[])


def test_a_module_that_is_its_own_parameters():
    module = Module(jnp.ones((4, 5)) / 3, jnp.ones(5))
    params = drawn(adapt(KEY, module, Module.__call__, CONFIG, jnp.ones((2, 4))))
    assert sorted(params) == ["bias", "w", "w:io"]
    got = lora(Module.__call__, like=module)(params, jnp.ones((2, 4)))
    merged = dataclasses.replace(module, **lora_jax.merge(params))
    np.testing.assert_allclose(got, merged(jnp.ones((2, 4))), rtol=1e-5)
    with pytest.raises(TreeError, match="they differ in bias"):
        lora(Module.__call__, like=module)(
            {name: leaf for name, leaf in params.items() if name != "bias"}, jnp.ones((2, 4))
        )


def test_all_linear_is_every_product_but_lookups_and_convolutions():
    def fn(params, ids):
        x = params["embed"]["table"][ids] @ params["block"]["w"]
        return jax.lax.conv_general_dilated(x, params["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    params = {
        "embed": {"table": jnp.ones((5, 4))},
        "block": {"w": jnp.ones((4, 4))},
        "conv": jnp.ones((3, 4, 4)),
        "bias": jnp.ones(4),
    }
    adapted = adapt(KEY, params, fn, LoRAConfig(rank=2), jnp.zeros((1, 6), int))
    assert [path for path in flat(adapted) if path.endswith("lora_a")] == ["block/w:io/lora_a"]


def test_ranks_by_leaf_and_by_module():
    case = CASES["gemma"]
    config = LoRAConfig(rank=2, targets="*", rank_pattern={"q": 1, "kv": 3})
    params = adapt(KEY, case.params(), case.fn, config, case.input())
    assert {path: leaf.shape for path, leaf in flat(params).items() if path.endswith("lora_a")} == {
        "kv:ooio/lora_a": (4, 3),
        "out:iio/lora_a": (6, 2),
        "q:oio/lora_a": (4, 1),
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(lambda a: a[1:], "does not fit"), (lambda a: a.T, "does not fit|parts of different adapters")],
)
def test_an_adapter_of_another_shape_is_refused(change, sentence):
    case = CASES["gemma"]
    params = fresh(case)
    params["q:oio"] = {**params["q:oio"], "lora_a": change(params["q:oio"]["lora_a"])}
    for run in (lambda: lora(case.fn)(params, case.input()), lambda: lora_jax.merge(params)):
        with pytest.raises(TreeError, match=sentence):
            run()


def test_an_adapter_without_its_kernel_is_refused():
    case = CASES["gemma"]
    params = fresh(case)
    del params["q"]
    with pytest.raises(TreeError, match="there is an adapter at q:oio/lora_a and no kernel"):
        lora(case.fn)(params, case.input())


def test_bfloat16():
    case = CASES["gemma"]
    params = drawn(fresh(case, jnp.bfloat16), 0.2)
    got = lora(case.fn)(params, case.input(jnp.bfloat16))
    expected = lora(case.fn)(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), case.input())
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), expected, atol=0.05 * np.abs(expected).max())


def test_a_leaf_whose_gradient_is_stopped_is_no_target():
    def fn(params, ids):
        kept = jax.lax.stop_gradient(params["both"]) @ params["both"]
        return jax.lax.stop_gradient(params["table"])[ids] @ params["w"] @ kept

    base, ids = {"table": jnp.ones((5, 4)), "w": jnp.ones((4, 3)), "both": jnp.eye(3)}, jnp.array([1, 2])
    sites = find(fn, base, ids)
    assert {path for path, site in sites.items() if site.is_adaptable} == {"w", "both"}
    assert sites["table"].reason.startswith("its gradient is stopped by stop_gradient in the model")
    with pytest.raises(TargetError, match="of table: its gradient is stopped by stop_gradient"):
        adapt(KEY, base, fn, LoRAConfig(rank=2, targets="table"), ids)
