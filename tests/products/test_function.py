"""Is the adapted function the merged one, on whatever way a weight reaches its product, and without ever forming the update?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRAConfig
from lora_jax.errors import TargetError, TreeError
from lora_jax.leaves import is_adapter_leaf
from lora_jax.products.find import find
from lora_jax.products.function import adapt, lora
from lora_jax.tree import flat, nested
from tests.products.functions import CASES, FORMED

pytestmark = pytest.mark.usefixtures("quick_compile")
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


def test_roles(case, name):
    sites = find(case.fn, case.params(), case.input())
    assert {path: site.roles for path, site in sites.items() if site.is_adaptable} == case.roles
    assert [path for path, site in sites.items() if site.dense] == FORMED.get(name, [])


def test_it_begins_as_the_function_itself(case, like):
    got = lora(case.fn, like=like)(fresh(case), case.input())
    np.testing.assert_array_equal(got, case.fn(case.params(), case.input()))


def test_it_is_the_merged_function(case, like):
    params = drawn(fresh(case))
    got, expected, base = (
        lora(case.fn, like=like)(params, case.input()),
        merged(case, params),
        case.fn(case.params(), case.input()),
    )
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

    got = jax.grad(loss(lambda params: lora(case.fn, like=like)(params, case.input())))(trainable)
    expected = jax.grad(loss(lambda params: merged(case, params)))(trainable)
    for path, leaf in flat(got).items():
        wanted = flat(expected)[path]
        np.testing.assert_allclose(leaf, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=path)
        assert np.abs(wanted).max() > 0


def test_no_array_of_a_weight_s_shape_depends_on_the_adapters(case, like, name):
    """Neither W + delta nor its gradient: in the whole program of the gradient nothing that moves with the adapters has a kernel's entries."""
    params = fresh(case)
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))
    big = {leaf.size for path, leaf in flat(frozen).items() if not is_adapter_leaf(path)} | {
        np.prod(s) for s in layer_shapes(case)
    }

    def loss(trainable, x):
        return jnp.sum(jnp.sin(lora(case.fn, like=like)(lora_jax.combine(frozen, trainable), x)))

    program = jax.make_jaxpr(jax.grad(loss))(trainable, case.input())
    sizes = {v.aval.size for v in moved(program.jaxpr, set(program.jaxpr.invars[: len(jax.tree.leaves(trainable))]))}
    small = {leaf.size for leaf in jax.tree.leaves(trainable)}
    assert bool(sizes & (big - small - activations(case))) == (name in FORMED)


def test_dropout_is_its_own_in_every_product_and_layer(case, like):
    params = drawn(fresh(case))
    with_key = lambda seed: lora(case.fn, like=like, dropout=0.5, key=jax.random.key(seed))(params, case.input())  # noqa: E731
    np.testing.assert_array_equal(with_key(1), with_key(1))
    if case.input().dtype == jnp.float32:
        assert np.abs(with_key(1) - with_key(2)).max() > 0
    without = lora(case.fn, like=like, dropout=0.5)(params, case.input())
    np.testing.assert_array_equal(without, lora(case.fn, like=like)(params, case.input()))


def test_under_jit_vmap_and_another_scale(case, like):
    params = drawn(fresh(case))
    run = jax.jit(lora(case.fn, like=like))
    expected = lora(case.fn, like=like)(params, case.input())
    scale = np.abs(expected).max()
    assert np.abs(run(params, case.input()) - expected).max() <= 1e-5 * scale
    off = run(lora_jax.scaled(params, 0.0), case.input())
    np.testing.assert_allclose(off, case.fn(case.params(), case.input()), atol=1e-5 * scale)
    assert run._cache_size() == 1
    adapters = lora_jax.adapter_of(params)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0 * leaf]), adapters)
    base = lora_jax.strip(params)
    both = jax.vmap(lambda adapter: lora(case.fn, like=like)(lora_jax.combine(base, adapter), case.input()))(two)
    assert np.abs(both[0] - expected).max() <= 1e-5 * scale and np.abs(both[1] - off).max() <= 1e-5 * scale


# Helpers of the test of shapes


def layer_shapes(case) -> list[tuple[int, ...]]:
    """A stack's layers: what a scan would form."""
    leaves = flat(case.params()) if isinstance(case.shapes, dict) else {}
    return [
        tuple(n for n, role in zip(leaves[path].shape, roles, strict=True) if role != "s")
        for path, roles in case.roles.items()
        if path in leaves
    ]


def activations(case) -> set[int]:
    """Sizes of what the base's own program has."""
    program = (
        jax.make_jaxpr(jax.grad(lambda x: jnp.sum(jnp.sin(case.fn(case.params(), x)))))(case.input())
        if case.input().dtype == jnp.float32
        else None
    )
    program = program or jax.make_jaxpr(lambda x: case.fn(case.params(), x))(case.input())
    return {v.aval.size for v in moved(program.jaxpr, set(program.jaxpr.invars))}


def moved(jaxpr, sources: set) -> list:
    """The variables of a program, those of inner programs too, that depend on the sources."""
    known, found = set(sources), []
    for eqn in jaxpr.eqns:
        reads = [v for v in eqn.invars if not hasattr(v, "val")]
        if not any(v in known for v in reads):
            continue
        known.update(eqn.outvars)
        found += eqn.outvars
        for value in eqn.params.values():
            for program in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(program, "jaxpr", program)
                if hasattr(inner, "eqns"):
                    which = [
                        i
                        for i, v in zip(
                            inner.invars[-len(eqn.invars) :], eqn.invars[-len(inner.invars) :], strict=False
                        )
                        if v in known
                    ]
                    found += moved(inner, set(which))
    return found


# What is special


def test_a_derivative_of_its_own_holds_for_the_base_and_the_true_one_for_the_update():
    case = CASES["custom derivative"]
    run, params = lora(case.fn), fresh(case)
    own = jax.grad(lambda x: case.fn(case.params(), x).sum())(case.input())
    np.testing.assert_allclose(jax.grad(lambda x: run(params, x).sum())(case.input()), own, rtol=1e-5)
    assert [str(use) for use in find(case.fn, case.params(), case.input())["w"].custom][0].startswith("custom_vjp_call")


def test_what_would_be_formed_is_told_or_refused():
    case, told = CASES["weight norm"], []
    params = drawn(adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="plain"), case.input()))
    lora(case.fn, dense_uses=told)(params, case.input())
    assert told == []
    with pytest.raises(TargetError, match=r"targets: 'w' matches no leaf that a product eats; w reaches mul|w reaches"):
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="w"), case.input())


def test_an_adapter_whose_weight_is_used_in_another_way_is_exact_and_told():
    """A second use of the kernel that has no rule: W + delta is formed there alone."""
    fn = lambda params, x: x @ params["w"] + jnp.sum(params["w"] ** 2)  # noqa: E731
    base, x, told = {"w": jnp.arange(12.0).reshape(3, 4) / 10}, jnp.ones((2, 3)), []
    params = drawn(adapt(KEY, base, fn, LoRAConfig(rank=2, targets="w"), x))
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
        ("kw", "targets: 'kw' matches no leaf that a product eats; closest: kv, "),
        ("kv/q", "matches no leaf"),
    ],
)
def test_a_pattern_that_selects_nothing(targets, sentence):
    case = CASES["gemma"]
    with pytest.raises(TargetError, match=sentence):
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets=targets), case.input())


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


@pytest.mark.parametrize(("change", "sentence"), [(lambda a: a[1:], "does not fit"), (lambda a: a.T, "does not fit")])
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
