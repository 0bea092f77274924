"""Is an NNX model with adapters the model with kernels W + scale * a @ b, trained, saved, swept and written as a linen one?"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lora_jax
from lora_jax import LoRAConfig, LoRAError, adapt, adapter_of, combine, merge, partition, scaled, strip, sweep, training
from lora_jax import nnx as lora_nnx
from tests.cases import assert_trees_close, dense_base, equations, flat, randomised
from tests.nnx_cases import CASES, Case, Stack, every_case, one_dora

pytestmark = pytest.mark.usefixtures("quick_compile")


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@every_case
def test_output_is_that_of_the_dense_kernel(case):
    x, params = case.x(), case.params()
    expected = case.apply()(dense_base(params), x)
    assert_trees_close(case.apply()(params, x), expected, 2e-5)
    assert np.abs(expected - case.apply()(strip(params), x)).max() > 1e-2


@every_case
def test_gradients_are_those_of_the_dense_kernel(case):
    x, params = case.x(), case.params()
    trains = {p: leaf for p, leaf in flat(params).items() if p.endswith(("lora_a", "lora_b", "lora_magnitude"))}
    rest = {p: leaf for p, leaf in flat(params).items() if p not in trains}

    def loss(leaves, change):
        tree = change(lora_jax.tree.nested({**rest, **leaves}))
        return jnp.mean(case.model().apply({"params": tree}, x) ** 2)

    got = jax.jit(jax.grad(lambda leaves: loss(leaves, lambda tree: tree)))(trains)
    expected = jax.jit(jax.grad(lambda leaves: loss(leaves, lambda tree: dense_base(tree, jnp))))(trains)
    assert_trees_close(got, expected, 5e-5)


@every_case
def test_it_begins_as_the_model_itself(case):
    base, x = strip(case.params()), case.x()
    params = adapt(jax.random.key(4), base, case.model(), x)
    assert_trees_close(case.apply()(params, x), case.apply()(base, x), 2e-6)
    assert_trees_close(case.apply()(scaled(case.params(), 0.0), x), case.apply()(base, x), 1e-6)
    assert_trees_close(case.model().inject(case.model().base_params)(x), case.model().base_module(x), 1e-6)


@every_case
def test_merged_it_answers_alike(case):
    assert_trees_close(merge(case.params()), dense_base(case.params()), 2e-6)


@one_dora
def test_paths_and_classes_stay_and_only_adapters_are_lora_params(case):
    model, params = case.model(), case.params()
    injected = model.inject(params)
    before = {path: type(m) for path, m in nnx.iter_modules(model.base_module)}
    after = {path: type(m) for path, m in nnx.iter_modules(injected) if path in before}
    assert before.keys() == after.keys()
    assert all(issubclass(after[path], kind) for path, kind in before.items())
    chex.assert_trees_all_equal(model.params_of(injected), params)
    wrt = nnx.DiffState(0, lora_nnx.LoRAParam)
    gradient = nnx.jit(nnx.grad(lambda m, x: jnp.mean(m(x) ** 2), argnums=wrt))(injected, case.x())
    names = {path[-1] for path, _ in nnx.to_flat_state(gradient)}
    assert names == {"lora_a", "lora_b", *(["lora_magnitude"] if case.dora else [])}


@every_case
def test_bfloat16_stays_close(case):
    params, x, model = case.params(), case.x(), case.model(jnp.bfloat16)
    got = jax.jit(lambda params: model.apply({"params": params}, x))(params)
    assert got.dtype == model.base_module(x).dtype
    assert_trees_close(got, case.apply()(params, x), 0.06)


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=2)(x)


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_in_both_apis_gives_equal_logits_and_trains_to_equal_adapters(dora):
    case = named("attention-dora" if dora else "attention")
    params, x, y = case.params(), case.x(), jnp.ones((2, 3, 4))
    linen = lora_jax.LoRA(nn.MultiHeadDotProductAttention(num_heads=2), case.config)
    assert_trees_close(linen.apply({"params": params}, x), case.apply()(params, x), 1e-6)
    assert jax.tree.map(jnp.shape, linen.init(jax.random.key(0), x)["params"]) == jax.tree.map(jnp.shape, params)
    trained = [three_steps(model, params, x, y) for model in (linen, case.model())]
    chex.assert_trees_all_close(*trained, rtol=1e-5, atol=1e-6)


def three_steps(model, params, x, y):
    frozen, trainable = partition(params, lora_jax.trainable_mask(params))

    def loss_fn(params, batch, key):
        return jnp.mean((model.apply({"params": params}, batch["x"]) - batch["y"]) ** 2), None

    tx = optax.adamw(1e-2)
    state = training.init_state(trainable, tx, jax.random.key(0))
    order = jnp.zeros((3, 2), jnp.int32) + jnp.arange(2, dtype=jnp.int32)[None]
    state, _ = training.make_epoch(loss_fn, tx)(state, frozen, {"x": x, "y": y}, order)
    return combine(frozen, state.trainable)


class Decayed(nnx.Param):
    """A user's own class of parameters, which an optimiser may tell from others."""


class Marked(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 3, rngs=rngs, kernel_metadata={"role": "matrix"})
        self.gain = Decayed(jnp.ones(3), role="gain")

    def __call__(self, x):
        return self.layer(x) * self.gain[...][None]


def test_variables_keep_their_classes_and_metadata():
    base = Marked(nnx.Rngs(0))
    model = lora_nnx.LoRA(base, LoRAConfig(rank=2))
    injected = model.inject(jax.tree.map(lambda leaf: 2 * leaf, model.init(jax.random.key(0))["params"]))
    for found, own in ((injected.gain, base.gain), (injected.layer.kernel, base.layer.kernel)):
        assert type(found) is type(own)
        assert found.get_metadata() == own.get_metadata()
        np.testing.assert_array_equal(found[...], 2 * own[...])


def test_an_nnx_optimizer_trains_the_adapters_and_nothing_else():
    case = named("stack")
    model = case.model().inject(case.params())
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=lora_nnx.LoRAParam)

    @nnx.jit
    def step(model, optimizer, x):
        gradient = nnx.grad(lambda m: jnp.mean(m(x) ** 2), argnums=nnx.DiffState(0, lora_nnx.LoRAParam))(model)
        optimizer.update(model, gradient)

    for _ in range(3):
        step(model, optimizer, case.x())
    before, after = flat(case.params()), flat(case.model().params_of(model))
    moved = {path for path in before if np.any(np.asarray(before[path]) != np.asarray(after[path]))}
    assert moved == {path for path in before if path.endswith(("lora_a", "lora_b"))}


def test_a_sweep_of_an_nnx_model_is_its_members_one_by_one():
    case = named("listed")
    model, x = case.model(), case.x()
    members = sweep.grid(ranks=(1, 3), learning_rates=(1e-2,), seeds=(0, 1))
    stacked = sweep.init_adapters(model, members, x)
    for i, member in enumerate(members):
        config = dataclasses.replace(case.config, rank=member.rank)
        own = adapter_of(adapt(jax.random.key(member.seed), model.base_params, model.with_config(config), x))
        for path, leaf in flat(own).items():
            np.testing.assert_array_equal(flat(stacked)[path][i][tuple(map(slice, leaf.shape))], leaf)


@pytest.mark.parametrize("name", ["attention-dora", "einsum_transposed", "embed"])
def test_it_goes_to_peft_and_back_and_into_a_checkpoint(name, tmp_path):
    case = named(name)
    model, params = case.model(), case.params()
    layout, names_of = model.layout_of(case.x()), lambda path: path.replace("/", ".") or "model"
    lora_jax.peft.save(tmp_path / "peft", params, case.config, layout, mask=None, names_of=names_of)
    back = lora_jax.peft.load(tmp_path / "peft", strip(params), layout, names_of=names_of).params
    assert_trees_close(case.apply()(back, case.x()), case.apply()(params, case.x()), 1e-6)
    lora_jax.checkpoint.save_adapter(tmp_path / "orbax", params, case.config, mask=None)
    fresh = adapt(jax.random.key(5), strip(params), model, case.x())
    chex.assert_trees_all_equal(lora_jax.checkpoint.restore_adapter(tmp_path / "orbax", fresh, case.config), params)


def test_adapter_dropout_is_active_only_with_a_key():
    model = lora_nnx.LoRA(nnx.Linear(4, 5, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*", dropout=0.5))
    params, x = randomised(model.init(jax.random.key(0))["params"], seed=3), jnp.ones((3, 4))
    run = jax.jit(lambda key: model.apply({"params": params}, x, rngs={"dropout": key}))
    without, one, other = model.apply({"params": params}, x), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(one, run(jax.random.key(1)))
    assert np.abs(one - without).max() > 1e-2
    assert np.abs(one - other).max() > 1e-2


def test_no_gradient_of_a_kernel_s_shape():
    d, k = 31, 37
    model = lora_nnx.LoRA(nnx.Linear(d, k, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
    params = model.init(jax.random.key(0))["params"]
    base, adapter = strip(params), adapter_of(params)
    loss = jax.grad(lambda adapter: jnp.sum(model.apply({"params": combine(base, adapter)}, jnp.ones((5, d))) ** 2))
    shapes = [out.aval.shape for e in equations(jax.make_jaxpr(loss)(adapter).jaxpr) for out in e.outvars]
    assert not [shape for shape in shapes if sorted(shape) == [d, k]]


def test_swapping_adapters_does_not_retrace():
    case, traces = named("attention"), []

    @jax.jit
    def run(params, x):
        traces.append(1)
        return case.model().apply({"params": params}, x)

    outputs = [
        run(params, case.x()) for params in (case.params(), randomised(case.params(), 9), scaled(case.params(), 0.0))
    ]
    assert len(traces) == 1
    assert np.abs(np.asarray(outputs[0] - outputs[1])).max() > 1e-3


def masked():
    return nnx.Conv(3, 5, (3,), mask=jnp.ones((3, 3, 5)), rngs=nnx.Rngs(0))


class Odd(nnx.Module):
    """A head, a layer that LoRA cannot adapt, and one of which only a run tells what it does."""

    def __init__(self, rngs):
        self.masked = nnx.Conv(3, 4, (3,), mask=jnp.ones((3, 3, 4)), rngs=rngs)
        self.late = nnx.Einsum("btd,dk->btk", (4, 4), rngs=rngs)
        self.late.einsum_str = None
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.late(self.masked(x), "btd,dk->btk"))


@pytest.mark.parametrize("fields", [{"targets": "head"}, {"excludes": ("masked", "late")}], ids=str)
def test_layers_may_stay_as_they_are(fields):
    model, x = lora_nnx.LoRA(Odd(nnx.Rngs(0)), LoRAConfig(rank=2, **fields)), jnp.ones((1, 5, 3))
    params = model.init(jax.random.key(0))["params"]
    assert [*model.layout, *adapter_of(params)] == ["head", "head"]
    np.testing.assert_array_equal(model.apply({"params": params}, x), model.base_module(x))


def one_class_on_three():
    one, three = (lora_nnx.LoRA(nnx.Linear(4, k, rngs=nnx.Rngs(0)), LoRAConfig(rank=2)) for k in (1, 3))
    three.inject(combine(three.base_params, adapter_of(one.init(jax.random.key(0))["params"])))


def misspelt(name: str | None):
    params = dict(named("linear").params())
    a = params.pop("lora_a")
    named("linear").model().inject(params if name is None else {**params, name: a})


def test_a_stack_of_layers_takes_dropout():
    case = named("stack")
    model = case.model().with_config(dataclasses.replace(case.config, dropout=0.5))
    one, same, other = (
        model.apply({"params": case.params()}, case.x(), rngs={"dropout": jax.random.key(k)}) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2 and np.abs(one - case.apply()(case.params(), case.x())).max() > 1e-2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: lora_nnx.LoRA(named("attention").model().base_module, LoRAConfig(rank=2, targets="qury")),
            "closest to 'qury': query",
        ),
        (lambda: lora_nnx.LoRA(masked(), LoRAConfig(rank=2, targets="*")), "of kernel: it reaches mul in"),
        (
            lambda: lora_nnx.LoRA(Odd(nnx.Rngs(0)), LoRAConfig(rank=2, excludes="masked")).init(jax.random.key(0)),
            "'all-linear' may select late/kernel.*give an example input",
        ),
        (lambda: one_class_on_three(), r"kernel \(4, 3\) does not fit lora_a \(4, 2\), lora_b \(2, 1\)"),
        (lambda: misspelt("lora_A"), "lora_b and no lora_a beside it"),
        (lambda: misspelt(None), "lora_b and no lora_a beside it"),
        (lambda: named("linear").model().inject({"kernel": jnp.ones((4, 6))}), "missing bias.*mis-shaped kernel"),
        (lambda: adapt(jax.random.key(0), {"kernel": jnp.ones((4, 6))}, named("linear").model()), "missing bias"),
    ],
)
def test_what_cannot_be_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.first, self.drop = nnx.Linear(4, 64, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.first(x))


@pytest.mark.parametrize("streams", [{"default": 0}, {"params": 0, "dropout": 1}], ids=str)
def test_the_model_s_own_dropout_follows_the_key(streams):
    model = lora_nnx.LoRA(Dropping(nnx.Rngs(**streams)), LoRAConfig(rank=2))
    params = model.init(jax.random.key(0))["params"]
    one, same, other = (
        model.apply({"params": params}, jnp.ones((1, 4)), rngs={"dropout": jax.random.key(k)}) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(np.asarray(one == 0) != np.asarray(other == 0))


class SplitByType(Stack):
    """The stack, its scan given axes by type, which know nothing of an adapter's settings."""

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, nnx.StateAxes({nnx.Param: 0, ...: None})), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return run(x, self.blocks)


def test_a_stack_that_is_split_by_type():
    model = lora_nnx.LoRA(SplitByType(jnp.float32, nnx.Rngs(0)), LoRAConfig(rank=3))
    params = randomised(model.init(jax.random.key(0))["params"], seed=3)
    got, expected = (model.apply({"params": tree}, jnp.ones((2, 4))) for tree in (params, lora_jax.merge(params)))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.inject(params)(jnp.ones((2, 4))), expected, rtol=1e-5, atol=1e-6)


class OwnProduct(nnx.Linear):
    """A layer whose call is its own."""

    def __call__(self, x):
        return x @ self.kernel[...]


def test_a_layer_whose_call_is_its_own():
    model = lora_nnx.LoRA(OwnProduct(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2))
    params = model.init(jax.random.key(0))["params"]
    assert lora_jax.verify(model, params, jnp.ones((2, 3))).holds


def test_a_tied_embedding_is_found_by_running_and_kept_out_of_peft(tmp_path):
    case = named("tied")
    for layout, message in (
        (case.model().layout, "whether this embedding is tied"),
        (case.model().layout_of(case.x()), "is tied"),
    ):
        with pytest.raises(LoRAError, match=message):
            lora_jax.peft.save(tmp_path, case.params(), case.config, layout, mask=None)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: lora_nnx.LoRA(nnx.LoRALinear(3, 4, lora_rank=2, rngs=nnx.Rngs(0)), LoRAConfig(rank=1)),
            "wrap the plain model",
        ),
        (
            lambda: (
                named("linear")
                .model()
                .inject({**strip(named("linear").params()), "other": adapter_of(named("linear").params())})
            ),
            "of another model",
        ),
    ],
)
def test_models_that_cannot_be_adapted_say_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()
