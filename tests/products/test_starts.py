"""DoRA, PiSSA, OLoRA and orthogonal factors at kernels whose axes lie in any order, under any name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, verify
from lora_jax.errors import TargetError
from lora_jax.products.function import adapt, lora
from lora_jax.products.trees import named
from lora_jax.tree import flat, nested
from tests.products.functions import CASES
from tests.products.test_linen import IDS, Gemma, Scanned, X

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY = jax.random.key(0)
STARTS = {"dora": {"dora": True}, "olora": {"init": "olora"}, "pissa, dora": {"init": "pissa", "dora": True}}
NAMES = (
    "x w^T", "gemma", "scan over axis 1", "scan over the last axis", "experts", "tied table", "lookups in a batch", "lstm", "convolution",
    "a list of dicts",
)  # fmt: skip


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return CASES[name]


@pytest.fixture
def like(case):
    return case.params() if isinstance(case.shapes, list) else None


def fresh(case, start: str):
    config = LoRAConfig(rank=2, alpha=3, targets="*", **STARTS[start])
    return adapt(KEY, case.params(), case.fn, config, case.input())


def moved(params) -> dict:
    """Everything that trains, somewhat elsewhere."""
    random = np.random.default_rng(2)

    def elsewhere(path, leaf):
        if path.rpartition("/")[2] not in ("lora_a", "lora_b", "lora_magnitude"):
            return leaf
        return leaf * random.uniform(0.5, 1.5, leaf.shape).astype(np.float32) + 0.3

    return nested({path: elsewhere(path, leaf) for path, leaf in flat(params).items()})


def merged(case, params):
    found = flat(lora_jax.merge(params))
    return case.fn(
        [{"w": found[f"{i}/w"]} for i in range(len(found))] if isinstance(case.shapes, list) else nested(found),
        case.input(),
    )


@pytest.mark.parametrize("start", STARTS)
def test_it_begins_as_the_function_itself(case, like, start):
    got, expected = lora(case.fn, like=like)(fresh(case, start), case.input()), case.fn(case.params(), case.input())
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("start", STARTS)
def test_it_is_the_merged_function_with_its_gradients(case, like, start):
    params = moved(fresh(case, start))
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))

    def run(way):
        loss = lambda own: (jnp.sum(jnp.sin(y := way(lora_jax.combine(frozen, own)))), y)  # noqa: E731
        return jax.jit(jax.grad(loss, has_aux=True))(trainable)

    found, got = run(lambda params: lora(case.fn, like=like)(params, case.input()))
    wanted, expected = run(lambda params: merged(case, params))
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= 2e-5 * scale
    assert np.abs(expected - case.fn(case.params(), case.input())).max() > 1e-2 * scale
    for path, leaf in flat(wanted).items():
        np.testing.assert_allclose(flat(found)[path], leaf, atol=2e-4 * max(np.abs(leaf).max(), 1e-3), err_msg=path)


def dense(kernel, own, roles: str) -> np.ndarray:
    """The adapted kernel by numpy: m V / ||V||, V = W + s (a b - a0 b0), axis by axis."""
    of = {role: [k for k, letter in enumerate(roles) if letter == role] for role in "sio"}
    order = of["s"] + of["i"] + of["o"]
    own = {name: np.asarray(leaf, np.float64) for name, leaf in own.items()}
    update = own["lora_a"] @ own["lora_b"]
    if "lora_start_a" in own:
        update = update - own["lora_start_a"] @ own["lora_start_b"]
    update = update * own["lora_scale"][..., None, None]
    value = np.asarray(kernel) + update.reshape([kernel.shape[k] for k in order]).transpose(np.argsort(order))
    if "lora_magnitude" in own:
        value = own["lora_magnitude"] * value / np.sqrt((value**2).sum(tuple(of["i"]), keepdims=True))
    return value


@pytest.mark.parametrize("start", STARTS)
def test_merged_kernels_are_those_of_numpy(case, start):
    params = moved(fresh(case, start))
    got = flat(lora_jax.merge(params))
    for path, roles in case.roles.items():
        module = params
        *parents, last = path.split("/")
        for part in parents:
            module = module[part]
        expected = dense(named(case.params())[path], module[f"{last}:{roles}"], roles)
        np.testing.assert_allclose(got[path], expected, atol=1e-5, err_msg=path)


def test_a_start_from_the_kernel_is_the_kernel_s_own():
    """PiSSA's factors hold the kernel's largest directions, whatever the order of its axes."""
    case = CASES["gemma"]
    params = fresh(case, "pissa, dora")
    own, kernel = params["q:oio"], params["q"].transpose(1, 0, 2).reshape(4, 6)
    u, s, v = np.linalg.svd(kernel, full_matrices=False)
    np.testing.assert_allclose(own["lora_scale"] * own["lora_a"] @ own["lora_b"], u[:, :2] * s[:2] @ v[:2], atol=1e-5)


@pytest.mark.parametrize("model", [Gemma(), Scanned(), Scanned(-1)], ids=["gemma", "axis 1", "last axis"])
@pytest.mark.parametrize("start", STARTS)
def test_linen_models(model, start):
    x = IDS if isinstance(model, Gemma) else X
    base = jax.jit(model.init)(KEY, x)["params"]
    adapted = LoRA(model, LoRAConfig(rank=1, alpha=3, targets="all-linear", **STARTS[start]))
    params = lora_jax.adapt(KEY, base, adapted, x)
    expected = model.apply({"params": base}, x)
    np.testing.assert_allclose(adapted.apply({"params": params}, x), expected, atol=1e-5)
    params = moved(params)
    assert verify(adapted, params, x).holds
    np.testing.assert_allclose(adapted.apply({"params": lora_jax.scaled(params, 0.0)}, x), expected, atol=1e-5)
    other = jax.tree.map(lambda leaf: 2 * leaf, base)
    there = lora_jax.rebase(other, lora_jax.adapter_of(params))
    np.testing.assert_allclose(
        adapted.apply({"params": there}, x), model.apply({"params": lora_jax.merge(there)}, x), atol=1e-4
    )
    for path, leaf in flat(there).items():
        if path.endswith("lora_norm"):
            np.testing.assert_allclose(leaf, 2 * flat(params)[path], rtol=1e-5)


def test_a_kernel_with_a_magnitude_does_not_train_and_a_whole_tree_is_an_adapter():
    params = fresh(CASES["gemma"], "dora")
    with pytest.raises(TargetError, match="q has a magnitude"):
        lora_jax.trainable_mask(params, train="re:q")
    there = lora_jax.rebase(lora_jax.strip(params), params)
    jax.tree.map(np.testing.assert_array_equal, there, params)
