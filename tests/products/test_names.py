"""Keys that contain "/", as Flax's WeightNorm and Haiku's modules have them: names are names, and no steps of a path."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, checkpoint, targets
from lora_jax.errors import TargetError, TreeError
from lora_jax.products.function import adapt, lora
from lora_jax.products.trees import named
from lora_jax.tree import flat, nested
from tests.products.test_function import drawn

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY, ODD = jax.random.key(0), "50%2F 100%/~1 of:a/b"
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8)), jnp.float32)
TREES = st.recursive(
    st.integers(0, 9), lambda part: st.dictionaries(st.text("a/%2F5~:", max_size=4), part, min_size=1, max_size=3)
)


@hypothesis.settings(deadline=None, max_examples=200, database=None)
@hypothesis.given(st.dictionaries(st.text("a/%2F5~", max_size=4), TREES, max_size=3))
def test_any_tree_comes_back(tree):
    assert nested(flat(tree)) == tree
    assert list(flat(tree)) == list(flat(nested(flat(tree))))
    arrays = jax.tree.map(np.int32, tree)
    assert flat(arrays) == named(arrays)


def test_a_key_that_is_no_string_is_told():
    with pytest.raises(TreeError, match="has the key 1 among"):
        flat({"layers": {1: jnp.ones(2)}})


def test_two_names_that_read_the_same_are_two():
    tree = {"a/b": jnp.ones(2), "a": {"b": jnp.zeros(2)}}
    assert flat(tree).keys() == {"a%2Fb", "a/b"}
    assert checkpoint.fingerprint(tree) != checkpoint.fingerprint({"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}})


@pytest.mark.parametrize("pattern", ["norm/kernel/scale", "kernel/scale", "scale", "*/scale", "re:net/.*/scale"])
def test_patterns_see_the_plain_name(pattern):
    (path,) = flat({"net": {"norm/kernel/scale": 1}})
    assert targets.matches(pattern, path)
    assert targets.exactly(path, [path]) == "net/norm/kernel/scale"


# Functions whose leaves have such names: everything that takes trees apart


def fn(params, x):
    """As Haiku has it: the module's whole path is one key."""
    return jnp.tanh(x @ params["mlp/~/linear_0"]["w"]) @ params[ODD] + x @ params["mlp"]["~"]["linear_0"]["w"]


@pytest.fixture
def base():
    random = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape) / 2, jnp.float32)  # noqa: E731
    return {"mlp/~/linear_0": {"w": draw(8, 8)}, ODD: draw(8, 3), "mlp": {"~": {"linear_0": {"w": draw(8, 3)}}}}


@pytest.fixture
def params(base):
    return drawn(adapt(KEY, base, fn, LoRAConfig(rank=2, targets="*"), X))


def test_a_function_of_such_leaves(params, base):
    assert params.keys() == {"mlp/~/linear_0", ODD, f"{ODD}:io", "mlp"}
    assert jax.tree.structure(lora_jax.strip(params)) == jax.tree.structure(base)
    got = lora(fn)(params, X)
    np.testing.assert_allclose(got, fn(lora_jax.merge(params), X), atol=1e-5)
    assert np.abs(got - fn(base, X)).max() > 0.1
    np.testing.assert_array_equal(lora(fn, like=base)(params, X), got)


def test_swap_combine_and_checkpoint(params, base, tmp_path):
    config, mask = LoRAConfig(rank=2, targets="*"), lora_jax.trainable_mask(params)
    fresh = adapt(KEY, base, fn, config, X)
    np.testing.assert_array_equal(lora(fn)(lora_jax.swap(fresh, lora_jax.adapter_of(params)), X), lora(fn)(params, X))
    whole = lora_jax.combine(*lora_jax.partition(params, mask))
    assert jax.tree.structure(whole) == jax.tree.structure(nested(flat(params)))
    checkpoint.save_adapter(tmp_path / "adapter", params, config, mask=mask, collections={})
    back = checkpoint.restore_adapter(tmp_path / "adapter", fresh, config, mask=mask)
    assert jax.tree.structure(back) == jax.tree.structure(fresh)
    np.testing.assert_array_equal(lora(fn)(back, X), lora(fn)(params, X))
    checkpoint.save_state(tmp_path / "state", params, base, config, step=1)
    state = checkpoint.restore_state(tmp_path / "state", jax.tree.map(jnp.zeros_like, params), base, config)
    jax.tree.map(np.testing.assert_array_equal, state, params)


def test_targets_and_messages_have_the_plain_name(base):
    one = adapt(KEY, base, fn, LoRAConfig(rank=2, targets=ODD), X)
    assert [key for key in one if key not in base] == [f"{ODD}:io"]
    with pytest.raises(
        TargetError,
        match="'linear_1' matches no layer .* closest to 'linear_1': mlp/~/linear_0/w, mlp/~/linear_0/w",
    ):
        adapt(KEY, base, fn, LoRAConfig(rank=2, targets="linear_1"), X)
    broken = {**one, ODD: jnp.ones((5, 5))}
    with pytest.raises(TreeError, match="^50%2F 100%/~1 of:a/b .* does not fit"):
        lora(fn)(broken, X)


# Flax's wrappers


class Normed(nn.Module):
    wrapper: type

    @nn.compact
    def __call__(self, x):
        more = {} if self.wrapper is nn.WeightNorm else {"update_stats": False}
        return nn.Dense(4, name="out")(self.wrapper(nn.Dense(8, name="w"), name="norm")(x, **more))


@pytest.mark.parametrize("wrapper", [nn.WeightNorm, nn.SpectralNorm])
@pytest.mark.parametrize("pattern", ["out", "w"])
def test_a_model_with_such_parameters(wrapper, pattern, tmp_path):
    """A kernel that is multiplied by a vector on its way, as WeightNorm does, is refused by a sentence; all else is adapted."""
    model, x = Normed(wrapper), X
    variables = jax.jit(model.init)(KEY, x)
    base, others = variables["params"], {name: value for name, value in variables.items() if name != "params"}
    adapted = LoRA(model, config := LoRAConfig(rank=2, alpha=3, targets=pattern))
    try:
        params = drawn(lora_jax.adapt(KEY, base, adapted, x))
    except TargetError as error:
        assert (pattern, wrapper) == ("w", nn.WeightNorm)
        assert "of w/kernel: it reaches mul in Normed/norm/norm._l2_normalize (" in str(error)
        return
    assert jax.tree.structure(lora_jax.strip(params)) == jax.tree.structure(base)
    got = adapted.apply({**others, "params": params}, x)
    merged = model.apply({**others, "params": lora_jax.merge(params)}, x)
    np.testing.assert_allclose(got, merged, atol=1e-5)
    assert np.abs(got - model.apply(variables, x)).max() > 1e-2
    checkpoint.save_adapter(tmp_path / "adapter", params, config, mask=None, collections={})
    back = checkpoint.restore_adapter(tmp_path / "adapter", lora_jax.adapt(KEY, base, adapted, x), config)
    np.testing.assert_array_equal(adapted.apply({**others, "params": back}, x), got)


def test_a_normed_kernel_whose_roles_are_told():
    """It can be adapted all the same: W + delta is formed before it is normed, and told."""
    model, formed = Normed(nn.WeightNorm), []
    base = jax.jit(model.init)(KEY, X)["params"]
    adapted = LoRA(model, LoRAConfig(rank=2, alpha=3, targets="w", roles={"w/kernel": "io"}))
    params = drawn(lora_jax.adapt(KEY, base, adapted, X))
    got = lora(lambda params, x: model.apply({"params": params}, x), dense_uses=formed)(params, X)
    np.testing.assert_allclose(got, model.apply({"params": lora_jax.merge(params)}, X), atol=1e-5)
    np.testing.assert_allclose(got, adapted.apply({"params": params}, X), atol=1e-6)
    assert np.abs(got - model.apply({"params": base}, X)).max() > 1e-2
    assert {use.path for use in formed} == {"w/kernel"}


def test_a_peft_folder_of_a_model_with_such_parameters(tmp_path):
    """What is adapted is written, and comes back onto the same tree."""
    model = Normed(nn.WeightNorm)
    base = jax.jit(model.init)(KEY, X)["params"]
    adapted = LoRA(model, config := LoRAConfig(rank=2, alpha=3, targets="out"))
    params = drawn(lora_jax.adapt(KEY, base, adapted, X))
    layout = lora_jax.layout(model, X)
    lora_jax.peft.save(tmp_path / "peft", params, config, layout, mask=None)
    back = lora_jax.peft.load(tmp_path / "peft", base, layout).params
    assert jax.tree.structure(lora_jax.strip(back)) == jax.tree.structure(base)
    np.testing.assert_allclose(adapted.apply({"params": back}, X), adapted.apply({"params": params}, X), atol=1e-6)
