"""Roles that a config tells: factors of their own for an index that the product has as one of its inputs or outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.products.function import adapt, lora
from lora_jax.tree import flat
from tests.products.functions import CASES, Case
from tests.products.test_function import drawn
from tests.products.test_linen import IDS as TOKENS
from tests.products.test_linen import Experts, Gemma, X

pytestmark = pytest.mark.usefixtures("compiled_alike")
KEY = jax.random.key(0)

TOLD = {
    "keys and values": (CASES["gemma"], {"kv": "soio", "q": "sio"}),
    "each head": (CASES["gemma"], {"q": "sio", "kv": "ssio", "out": "sio"}),
    "head width": (CASES["gemma"], {"q": "ois", "out": "iso"}),
    "query, key, value": (CASES["stacked query, key, value"], {"w": "sioo"}),
    "an axis between": (CASES["stacked query, key, value"], {"w": "oiso"}),
    "experts, every token through each": (
        Case(lambda p, x: jnp.einsum("btd,edf->btef", x, p["up"]), {"up": (3, 4, 5)}, {"up": "oio"}),
        {"up": "sio"},
    ),
    "experts, summed": (
        Case(lambda p, x: jnp.einsum("bte,btd,edk->btk", x[..., :3], x, p["w"]), {"w": (3, 4, 5)}, {"w": "iio"}),
        {"w": "sio"},
    ),
    "w first": (
        Case(lambda p, x: jnp.einsum("kde,bte->kdbt", p["w"], x), {"w": (2, 3, 4)}, {"w": "ooi"}),
        {"w": "soi"},
    ),
    "a scan over axis 1 of heads": (
        Case(
            lambda p, x: jax.lax.scan(lambda x, w: (jnp.einsum("btd,ndk->btnk", x, w).sum(2), None), x, p["w"])[0],
            {"w": (3, 2, 4, 4)},
            {"w": "soio"},
        ),
        {"w": "ssio"},
    ),
    "read twice": (
        Case(
            lambda p, x: jnp.einsum("btd,ndk->btnk", x, p["w"]) + jnp.einsum("btk,ndk->btnd", x, p["w"]),
            {"w": (2, 4, 4)},
            {"w": "oio"},
        ),
        {"w": "sio"},
    ),
}  # fmt: skip


@pytest.fixture(params=TOLD)
def told(request):
    return TOLD[request.param]


@pytest.fixture
def case(told):
    return told[0]


@pytest.fixture
def config(told):
    return LoRAConfig(rank=2, alpha=3, targets="*", roles=told[1])


@pytest.fixture
def params(case, config):
    return drawn(adapt(KEY, case.params(), case.fn, config, case.input()))


def test_the_place_says_the_roles_that_were_told(params, told):
    case, roles = told
    for path, letters in roles.items():
        own, shape = params[f"{path}:{letters}"], case.shapes[path]
        stack = tuple(size for size, role in zip(shape, letters, strict=True) if role == "s")
        assert own["lora_scale"].shape == stack and own["lora_a"].shape[: len(stack)] == stack


def test_it_begins_as_the_function_itself(case, config):
    params = adapt(KEY, case.params(), case.fn, config, case.input())
    np.testing.assert_array_equal(lora(case.fn)(params, case.input()), case.fn(case.params(), case.input()))


def test_it_is_the_merged_function_and_nothing_is_formed(case, params):
    formed = []
    got = lora(case.fn, dense_uses=formed)(params, case.input())
    expected = case.fn(lora_jax.merge(params), case.input())
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= 1e-5 * scale
    assert np.abs(expected - case.fn(case.params(), case.input())).max() > 1e-2 * scale
    assert formed == []


def test_gradients_are_those_through_the_merged_function(case, params):
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))
    loss = lambda way: lambda own: jnp.sum(jnp.sin(way(lora_jax.combine(frozen, own))))  # noqa: E731
    ways = (
        lambda params: lora(case.fn)(params, case.input()),
        lambda params: case.fn(lora_jax.merge(params), case.input()),
    )
    got, expected = jax.jit(lambda own: tuple(jax.grad(loss(way))(own) for way in ways))(trainable)
    for path, leaf in flat(got).items():
        wanted = flat(expected)[path]
        np.testing.assert_allclose(leaf, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=path)


@pytest.mark.parametrize("fields", [{"dora": True}, {"init": "pissa"}])
def test_other_starts_with_told_roles(fields):
    case = CASES["gemma"]
    config = LoRAConfig(rank=2, targets="*", roles={"kv": "soio", "q": "sio"}, **fields)
    params = adapt(KEY, case.params(), case.fn, config, case.input())
    np.testing.assert_allclose(
        lora(case.fn)(params, case.input()), case.fn(case.params(), case.input()), rtol=1e-4, atol=1e-5
    )


def test_what_cannot_be_factored_under_told_roles_is_formed_and_told():
    """Rows whose parts have factors of their own, flattened before they are looked up."""
    fn, ids = lambda params, ids: params["table"].reshape(7, 6)[ids], jnp.array([1, 6, 0])  # noqa: E731
    config, formed = LoRAConfig(rank=2, targets="table", roles={"table": "iso"}), []
    params = drawn(adapt(KEY, {"table": jnp.ones((7, 2, 3))}, fn, config, ids))
    got = lora(fn, dense_uses=formed)(params, ids)
    np.testing.assert_allclose(got, fn(lora_jax.merge(params), ids), rtol=1e-5)
    assert [use.path for use in formed] == ["table"]


def test_scales_of_their_own():
    """One expert's adapter switched off by its scale is that expert's base."""
    case, roles = TOLD["experts, every token through each"]
    params = drawn(adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="*", roles=roles), case.input()))
    params["up:sio"]["lora_scale"] = jnp.array([1.0, 0.0, 2.0])
    got, base = lora(case.fn)(params, case.input()), case.fn(case.params(), case.input())
    np.testing.assert_allclose(got[:, :, 1], base[:, :, 1], rtol=1e-6)
    np.testing.assert_allclose(got, case.fn(lora_jax.merge(params), case.input()), atol=1e-5)
    assert np.abs(got - base)[:, :, (0, 2)].max() > 0.1


@pytest.mark.parametrize(
    ("name", "roles", "sentence"),
    [
        ("gemma", {"kv": "sio"}, r"kv \(2, 2, 4, 3\) has the roles 'ooio' and cannot have 'sio': it has 4 axes"),
        ("gemma", {"q": "ioo"}, "q .* cannot have 'ioo': axis 0 is 'o' in its product and can be 'o' or 's'"),
        ("gemma", {"out": "ois"}, "axis 0 is 'i' in its product and can be 'i' or 's'"),
        ("experts", {"up": "oio"}, "axis 0 is 's' in its product and can be 's'"),
        ("gemma", {"qu": "sio"}, "roles: 'qu' matches no kernel that is adapted; closest: "),
        ("convolution", {"w": "siio"}, "a convolution has one pair of factors"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, roles, sentence):
    case = CASES[name]
    with pytest.raises(TargetError, match=sentence):
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="*", roles=roles), case.input())


def test_a_magnitude_for_what_the_product_sums_over_is_refused():
    case, roles = TOLD["experts, summed"]
    with pytest.raises(TargetError, match="dora=True"):
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="*", dora=True, roles=roles), case.input())


def test_in_a_linen_model(tmp_path):
    """Saved and restored too."""
    config = LoRAConfig(rank=2, alpha=3, targets=("kv_einsum", "q_einsum"), roles={"kv_einsum/w": "soio"})
    model = LoRA(Gemma(), config)
    base = jax.jit(Gemma().init)(KEY, TOKENS)["params"]
    params = drawn(lora_jax.adapt(KEY, base, model, TOKENS))
    assert sorted(name for name in flat(params) if name.endswith("lora_a")) == [
        "kv_einsum/w:soio/lora_a",
        "q_einsum/w:oio/lora_a",
    ]
    got, merged = model.apply({"params": params}, TOKENS), Gemma().apply({"params": lora_jax.merge(params)}, TOKENS)
    np.testing.assert_allclose(got, merged, atol=1e-4)
    lora_jax.checkpoint.save_adapter(tmp_path / "adapter", params, config, mask=None)
    back = lora_jax.checkpoint.restore_adapter(tmp_path / "adapter", lora_jax.adapt(KEY, base, model, TOKENS), config)
    np.testing.assert_array_equal(model.apply({"params": back}, TOKENS), got)
    other = LoRAConfig(rank=2, alpha=3, targets=("kv_einsum", "q_einsum"))
    with pytest.raises(lora_jax.errors.CheckpointError, match="roles"):
        lora_jax.checkpoint.restore_adapter(tmp_path / "adapter", params, other)


def test_experts_in_an_einsum_are_a_choice():
    """One `a` for all of them as found, one for each as told (`LoRAConfig.roles`)."""
    shapes = {}
    for roles in ((), {"up": "sio", "down": "sio"}):
        model = LoRA(Experts(), LoRAConfig(rank=2, targets=("up", "down"), roles=roles))
        shapes |= {path: leaf.shape for path, leaf in flat(model.init(KEY, X)["params"]).items() if "lora_a" in path}
    assert shapes == {
        "up:oio/lora_a": (6, 2),
        "down:iio/lora_a": (15, 2),
        "up:sio/lora_a": (3, 6, 2),
        "down:sio/lora_a": (3, 5, 2),
    }
