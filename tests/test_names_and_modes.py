"""Names are names, the model's mode is its own, wrappers say what they wrap, and what Flax does with a module works with a wrapped one."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lora_jax
import lora_jax.nnx as lora_nnx
from lora_jax import LoRA, LoRAConfig, LoRAError, adapt, algebra, bank, checkpoint, merge, spectrum, strip, sweep, tree
from lora_jax.keys import plain
from tests.cases import assert_trees_close, flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (2, 3, 8))


class Normed(nn.Module):
    """A parameter of WeightNorm's is called "inner/kernel/scale", of SpectralNorm's "inner/kernel/u" (a statistic)."""

    @nn.compact
    def __call__(self, x):
        y = nn.WeightNorm(nn.Dense(6, name="inner"), name="normed")(x)
        y = nn.SpectralNorm(nn.Dense(5, name="bound"), name="spectral")(y, update_stats=False)
        return nn.Dense(4, name="head")(y)


def test_b1_a_slash_in_a_name_is_part_of_the_name(tmp_path):
    base = Normed()
    variables = base.init(KEY, X)
    model = LoRA(base, LoRAConfig(rank=2, targets="head"))
    params = randomised_at(adapt(KEY, variables["params"], model, X))
    y = model.apply({**variables, "params": params}, X)
    merged = merge(params)
    assert jax.tree.structure(merged) == jax.tree.structure(variables["params"])
    assert "inner/kernel/scale" in params["normed"]
    assert_trees_close(base.apply({**variables, "params": merged}, X), y)
    mask = lora_jax.trainable_mask(params, train="inner/kernel/scale")
    assert mask["normed"]["inner/kernel/scale"] is True and mask["inner"]["kernel"] is False
    assert "head" in str(lora_jax.report(params, mask, model.config, lora_jax.layout(model.base_module, X)))
    frozen, trainable = lora_jax.partition(params, mask)
    assert jax.tree.structure(lora_jax.combine(frozen, trainable)) == jax.tree.structure(params)
    checkpoint.save_adapter(tmp_path, params, model.config, mask=mask, collections={})
    fresh = adapt(jax.random.key(3), variables["params"], model, X)
    back = checkpoint.restore_adapter(tmp_path, fresh, model.config, mask=mask)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, back, params))


def randomised_at(params, seed: int = 3) -> dict:
    """Random factors, whatever the names: `cases.randomised` takes paths apart at a slash."""
    keys = iter(jax.random.split(jax.random.key(seed), 1000))

    def drawn(path, leaf):
        return jax.random.normal(next(keys), leaf.shape) if path[-1].key in ("lora_a", "lora_b") else leaf

    return jax.tree_util.tree_map_with_path(drawn, params)


SIGNS = ("w[0]", "a*", "q?", "re:.*", "x:io", "50%", "a/b", "all-linear", "params_")


@pytest.mark.parametrize("name", SIGNS)
def test_b1_signs_of_patterns_in_a_name(name, tmp_path):
    """A layer so called, beside one that the pattern would match: it is selected alone, or the pattern is refused by name."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="w0")(x) + nn.Dense(4, name=name)(x) + nn.Dense(4, name="ab")(x)

    base = Net().init(KEY, X)["params"]
    layout = lora_jax.layout(Net(), X)
    every = LoRA(Net(), LoRAConfig(rank=2, targets="*"))
    params = randomised_at(adapt(KEY, base, every, X))
    assert_trees_close(Net().apply({"params": merge(params)}, X), every.apply({"params": params}, X))
    place = "x:io/kernel:io" if name == "x:io" else name  # which would be read as the place of a kernel called x
    assert set(map(plain, spectrum(params))) == {"w0", "ab", place}
    assert f"\n{place} " in str(lora_jax.report(params)) and f"\n{place} " in str(lora_jax.verify(every, params, X))
    names = [site.name for site in layout.values()]
    path = next(site.name for site in layout.values() if site.path.rpartition("/")[0] not in ("w0", "ab"))
    alone = lora_jax.targets.exactly(path, names)
    one = LoRA(Net(), LoRAConfig(rank=2, targets=alone, rank_pattern={alone: 3}))
    chosen = adapt(KEY, base, one, X)
    assert {path: leaf.shape for path, leaf in plainly(chosen).items() if path.endswith("lora_a")} == {
        f"{place}/lora_a": (8, 3)
    }
    try:
        named = adapt(KEY, base, LoRA(Net(), LoRAConfig(rank=2, targets=name)), X)
    except LoRAError as error:
        assert "re:" in str(error) or name == "all-linear"
    else:
        found = [path for path in plainly(named) if path.endswith("lora_a")]
        assert name == "all-linear" or found == [f"{place}/lora_a"]
    members = sweep.grid(ranks=(1, 2), learning_rates=(0.1,), seeds=(0,))
    stacked = sweep.init_adapters(every, members, X)
    assert not any(
        np.any(np.asarray(tree.flat(stacked)[path])[where])
        for path, where in tree.flat(sweep.is_padding(every, stacked, members)).items()
    )
    mixed = bank.apply(every, base, bank.stack(base, [lora_jax.adapter_of(params)]), jnp.array([0, -1]), X)
    assert_trees_close(mixed[0], every.apply({"params": params}, X)[0])
    assert set(algebra.recompress(params, 2)) == set(params)
    checkpoint.save_adapter(tmp_path / "orbax", params, every.config, mask=None)
    back = checkpoint.restore_adapter(tmp_path / "orbax", adapt(KEY, base, every, X), every.config)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, back, params))


def plainly(params) -> dict:
    return {plain(path): leaf for path, leaf in tree.flat(params).items()}


class WithDropout(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.out = nnx.Embed(7, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, ids):
        return self.out(self.dropout(self.embed(ids)))


IDS = jnp.array([[1, 2, 3], [4, 5, 6]])


def test_b5_without_a_key_an_nnx_model_is_in_evaluation():
    model = WithDropout(nnx.Rngs(0))
    model.train()
    wrapped = lora_nnx.LoRA(model, LoRAConfig(rank=2, targets="*", dropout=0.5))
    params = randomised(wrapped.init(KEY, IDS)["params"], 3)
    got = wrapped.apply({"params": params}, IDS)
    assert jnp.array_equal(got, wrapped.apply({"params": params}, IDS))
    model.eval()
    merged = lora_nnx.LoRA(model, wrapped.config).inject(merge(params))
    assert_trees_close(got, merged(IDS))
    again = lora_nnx.LoRA(WithDropout(nnx.Rngs(0)), wrapped.config)
    noisy = [again.apply({"params": params}, IDS, rngs={"dropout": jax.random.key(k)}) for k in (1, 2)]
    assert not jnp.allclose(*noisy)


class WithMode(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = False):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(4, name="out")(x))


def test_b6_the_mode_of_the_call_decides_in_linen():
    model = LoRA(WithMode(), LoRAConfig(rank=2, targets="*", dropout=0.5))
    params = randomised(model.init(KEY, X, deterministic=True)["params"], 3)
    plain = WithMode().apply({"params": merge(params)}, X, deterministic=True)
    for key in (1, 2):
        got = model.apply({"params": params}, X, deterministic=True, rngs={"dropout": jax.random.key(key)})
        assert_trees_close(got, plain)
    on = [model.apply({"params": params}, X, rngs={"dropout": jax.random.key(key)}) for key in (1, 2)]
    assert not jnp.allclose(*on)


def test_b6_an_injected_model_follows_its_own_mode_or_says_that_it_has_no_key():
    wrapped = lora_nnx.LoRA(WithDropout(nnx.Rngs(0)), LoRAConfig(rank=2, targets="*", dropout=0.5))
    params = randomised(wrapped.init(KEY, IDS)["params"], 3)
    keyless = wrapped.inject(params)
    keyless.train()
    with pytest.raises(LoRAError, match="got no key for it"):
        keyless(IDS)
    keyless.eval()
    model = wrapped.inject(params, rngs={"dropout": KEY})
    model.eval()
    assert jnp.array_equal(model(IDS), keyless(IDS))
    model.train()
    assert not jnp.allclose(model(IDS), model(IDS))


def test_b7_tabulate_shows_the_base_and_the_adapters():
    model = LoRA(nn.Sequential([nn.Dense(4), nn.Dense(2)]), LoRAConfig(rank=2, targets="layers_1"))
    table = model.tabulate(KEY, X, depth=1, console_kwargs={"force_terminal": False})
    assert "Sequential Summary" in table and "'layers_1' matches 1" in table and "trainable 12" in table


def test_b7_an_injected_model_is_pickled_with_its_embedding():
    wrapped = lora_nnx.LoRA(WithDropout(nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
    model = wrapped.inject(randomised(wrapped.init(KEY, IDS)["params"], 3))
    model.eval()
    back = pickle.loads(pickle.dumps(model))
    assert type(back) is type(model) and jnp.array_equal(back(IDS), model(IDS))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, wrapped.params_of(back), wrapped.params_of(model)))


def test_b7_an_abstract_nnx_model_works_with_values_or_says_what_it_lacks():
    real = lora_nnx.LoRA(WithDropout(nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
    abstract = lora_nnx.LoRA(nnx.eval_shape(lambda: WithDropout(nnx.Rngs(0))), real.config)
    params = adapt(KEY, real.base_params, abstract, IDS)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, adapt(KEY, real.base_params, real, IDS)))
    assert jnp.array_equal(abstract.apply({"params": params}, IDS), real.apply({"params": params}, IDS))
    assert set(abstract.layout_of(IDS)) == set(real.layout_of(IDS))
    with pytest.raises(LoRAError, match="its parameters are shapes; give values, by lora_jax.adapt"):
        abstract.init(KEY, IDS)
    with pytest.raises(LoRAError, match="for random streams alone give a key"):
        abstract.inject(params)


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return nn.Dense(8, name="up")(x), None

        scanned = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scanned(name="layers")(x, None)[0]


@pytest.mark.parametrize(
    ("target", "write"),
    [("layers/0/up", "layers/up"), ("layers/2/up/kernel", "layers/up/kernel"), ("layers/0", "layers/*")],
)
def test_b7_a_part_of_a_stack_says_what_to_write(target, write):
    with pytest.raises(LoRAError, match="is one array for a stack of 3 layers, which are adapted together") as error:
        LoRA(Stack(), LoRAConfig(rank=2, targets=target)).init(KEY, X)
    assert f"write {write!r}" in str(error.value)
    params = LoRA(Stack(), LoRAConfig(rank=2, targets=write)).init(KEY, X)["params"]
    assert params["layers"]["up"]["lora_a"].shape == (3, 8, 2)


def test_b7_a_part_of_a_stack_of_nnx_says_what_to_write():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def made(rngs):
        return nnx.Linear(8, 8, rngs=rngs)

    class Layers(nnx.Module):
        def __init__(self):
            self.layers = made(nnx.Rngs(0))

    with pytest.raises(LoRAError, match="stack of 3 layers, which are adapted together; write 'layers'"):
        lora_nnx.LoRA(Layers(), LoRAConfig(rank=2, targets="layers/0"))


def attend(params, x):
    return x @ params["w"]


def test_wrappers_say_what_they_wrap_in_one_line():
    config = LoRAConfig(rank=2, alpha=16, targets="*")
    said = "LoRAConfig(rank=2, alpha=16, targets=('*',))"
    assert repr(LoRA(nn.Sequential([nn.Dense(3)]), config)) == f"LoRA(Sequential, {said})"
    assert repr(LoRA(attend, config)) == f"LoRA(attend, {said})"
    wrapped = lora_nnx.LoRA(WithDropout(nnx.Rngs(0)), config)
    assert repr(wrapped) == f"lora_jax.nnx.LoRA(WithDropout, {said})"
    model = wrapped.inject(wrapped.init(KEY, IDS)["params"])
    assert repr(model) == "AdaptedWithDropout(WithDropout with 2 adapters of rank 2: embed/embedding, out/kernel)"
    assert repr(model.out) == "AdaptedLinear(Linear with 1 adapters of rank 2: kernel)"
    assert eval(repr(config)) == config


def test_a_wrapper_is_equal_to_itself_and_strip_gives_the_base_back():
    model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
    assert model == LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")) and hash(model) is not None
    params = model.init(KEY, X)["params"]
    assert set(flat(strip(params))) == {"kernel", "bias"}
