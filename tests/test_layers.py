"""Is the side path of every layer class the layer with kernel W + scale * a @ b, and its gradient too?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from lora_jax import (
    LoRA,
    LoRAConfig,
    LoRAError,
    adapt,
    adapter_of,
    combine,
    merge,
    report,
    rounding_error,
    scaled,
    strip,
)
from tests.cases import Doubled, assert_trees_close, case_named, dense_base, every_case, flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")

TARGETS_ALL = LoRAConfig(rank=2, targets="*")


@every_case
def test_output_is_that_of_the_dense_update(case):
    x, params = case.x(), case.params()
    expected = case.base_apply()(dense_base(params), x)
    assert_trees_close(case.apply()(params, x), expected)
    assert np.abs(expected - case.base_apply()(strip(params), x)).max() > 1e-2


@every_case
def test_gradients_are_those_of_the_dense_update(case):
    x, params = case.x(), case.params()
    base, adapter = strip(params), adapter_of(params)
    model, module = case.model(), case.build(jnp.float32)

    def through_side_path(inputs):
        y = model.apply({"params": combine(base, inputs["adapter"])}, inputs.get("x", x))
        return jnp.mean(y**2)

    def through_kernel(inputs):
        y = module.apply({"params": dense_base(combine(base, inputs["adapter"]), jnp)}, inputs.get("x", x))
        return jnp.mean(y**2)

    inputs = {"adapter": adapter} if case.vocab else {"adapter": adapter, "x": x}  # token ids have no gradient
    got, expected = jax.jit(jax.grad(through_side_path))(inputs), jax.jit(jax.grad(through_kernel))(inputs)
    assert_trees_close(got, expected, 2e-5)


@every_case
def test_scale_zero_is_the_base(case):
    params, x = case.params(), case.x()
    got = case.apply()(scaled(params, 0.0), x)
    assert_trees_close(got, case.base_apply()(strip(params), x), 1e-6)  # bitwise outside jit; see below


@every_case
def test_bfloat16_stays_close(case):
    params, x = case.params(), case.x()
    module = case.build(jnp.bfloat16)
    got = jax.jit(lambda params: case.model(jnp.bfloat16).apply({"params": params}, x))(params)
    assert got.dtype == jax.eval_shape(lambda: module.apply({"params": strip(params)}, x)).dtype
    assert_trees_close(got, case.apply()(params, x), 0.05)


@every_case
def test_vmap_over_adapters(case):
    x, params = case.x(), case.params()
    base, both = strip(params), [adapter_of(params), adapter_of(randomised(params, seed=9))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)
    got = jax.jit(jax.vmap(lambda adapter: case.model().apply({"params": combine(base, adapter)}, x)))(stacked)
    expected = [case.base_apply()(dense_base(combine(base, adapter)), x) for adapter in both]
    assert_trees_close(got, np.stack(expected))


@pytest.mark.parametrize("name", ["dense", "attention", "conv_2d_groups", "tied_scan_remat"])
def test_vmap_over_inputs(name):
    case = case_named(name)
    xs, params = case.x(lead=(3,)), case.params()
    got = jax.jit(jax.vmap(lambda x: case.model().apply({"params": params}, x)))(xs)
    assert_trees_close(got, np.stack([case.base_apply()(dense_base(params), x) for x in xs]))


some_cases = pytest.mark.parametrize("name", ["dense", "attention", "conv_2d_groups", "embed", "tied_scan_remat"])


@some_cases
def test_scale_zero_is_the_base_bitwise_outside_jit(name):
    case = case_named(name)
    params, x = case.params(), case.x()
    expected = case.build(jnp.float32).apply({"params": strip(params)}, x)
    np.testing.assert_array_equal(case.model().apply({"params": scaled(params, 0.0)}, x), expected)


@some_cases
def test_init_leaves_the_base_bitwise_and_is_the_identity(name):
    case = case_named(name)
    params = case.model().init(jax.random.key(2), case.x())["params"]
    base = case.build(jnp.float32).init(jax.random.key(2), case.x())["params"]
    jax.tree.map(np.testing.assert_array_equal, strip(params), dict(base))
    assert_trees_close(case.apply()(params, case.x()), case.base_apply()(base, case.x()), 1e-6)
    assert_trees_close(adapt(jax.random.key(2), base, case.model(), case.x()), params, 1e-6)


def test_attend_alone_is_adapted(key):
    base, x = nn.Embed(7, 4), jax.random.normal(key, (2, 4))
    model = LoRA(base, TARGETS_ALL)
    params = randomised(model.init(key, jnp.zeros((1,), jnp.int32))["params"], seed=3)
    expected = base.apply({"params": dense_base(params)}, x, method="attend")
    assert_trees_close(model.apply({"params": params}, x, method="attend"), expected)
    assert_trees_close(model.apply({"params": params}, x, method=nn.Embed.attend), expected)


def test_a_base_in_bfloat16_keeps_its_dtype(key):
    base = nn.Dense(5, param_dtype=jnp.bfloat16)
    model = LoRA(base, TARGETS_ALL)
    params = adapt(key, base.init(key, jnp.ones((1, 4)))["params"], model, jnp.ones((1, 4)))
    assert {name: leaf.dtype.name for name, leaf in params.items()} == {
        "kernel": "bfloat16",
        "bias": "bfloat16",
        "lora_a": "float32",
        "lora_b": "float32",
        "lora_scale": "float32",
    }


class WithBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))


def test_other_collections_pass_through(key):
    x = jax.random.normal(key, (6, 4))
    model = LoRA(WithBatchNorm(), TARGETS_ALL)
    variables = model.init(key, x)
    params = randomised(variables["params"], seed=3)
    y, changed = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
    expected = WithBatchNorm().apply({**variables, "params": dense_base(params)}, x, mutable=["batch_stats"])
    assert_trees_close((y, changed), expected)


class Member(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_a_stack_of_models_under_nn_vmap(key):
    """Each with an input of its own, and an adapter of its own."""
    base = nn.vmap(Member, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0, axis_size=2)()
    x = jax.random.normal(key, (2, 5, 4))
    model = LoRA(base, TARGETS_ALL)
    params = randomised(model.init(key, x)["params"], seed=3)
    assert flat(params)["Dense_0/lora_a"].shape == (2, 4, 2)
    assert_trees_close(model.apply({"params": params}, x), base.apply({"params": dense_base(params)}, x))


@pytest.mark.parametrize("axis", [0, 1])
def test_stacked_models_that_read_one_input(key, axis):
    """One product over all of them: `a` is theirs together, and `b` has each its own."""
    base = nn.vmap(Member, variable_axes={"params": axis}, split_rngs={"params": True}, in_axes=None, axis_size=2)()
    x = jax.random.normal(key, (5, 4))
    model = LoRA(base, TARGETS_ALL)
    params = randomised(adapt(key, base.init(key, x)["params"], model, x), seed=3)
    module = ("Dense_0/kernel:oio/", "Dense_0/")[axis]
    assert flat(params)[f"{module}lora_a"].shape == (4, 2) and flat(params)[f"{module}lora_b"].shape == (2, 6)
    assert_trees_close(model.apply({"params": params}, x), base.apply({"params": merge(params)}, x))


@pytest.mark.parametrize(
    ("base", "x", "message"),
    [
        (nn.Conv(4, (3,), mask=jnp.ones((3, 3, 4))), jnp.ones((2, 8, 3)), "kernel: it reaches mul in Conv"),
        (nn.Einsum((4, 4), "bd,dd->bd", use_bias=False), jnp.ones((2, 4)), "kernel: it reaches select_n in Einsum"),
        (nn.Einsum((4, 5), "bd,...k->bk", use_bias=False), jnp.ones((2, 4)), "no axis to be summed over"),
        (nn.Einsum((4, 5), "bd,dk->bdk", use_bias=False), jnp.ones((2, 4)), "no axis to be summed over"),
    ],
    ids=["masked_conv", "repeated_label", "ellipsis_in_kernel", "nothing_summed"],
)
def test_a_layer_that_cannot_be_adapted_says_so(base, x, message):
    with pytest.raises(LoRAError, match=message):
        LoRA(base, TARGETS_ALL).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("name", "zero"), [("dense", "lora_b"), ("conv_1d", "lora_b"), ("einsum_transposed", "lora_a"), ("embed", "lora_a")]
)
def test_the_random_factor_is_on_the_input_side(name, zero):
    """As in PEFT, where an embedding's rows start at zero."""
    case = case_named(name)
    params = jax.jit(case.model().init)(jax.random.key(2), case.x())["params"]
    random = {"lora_a": "lora_b", "lora_b": "lora_a"}[zero]
    assert not np.any(params[zero])
    assert np.all(params[random])


@pytest.mark.parametrize(
    ("base", "x"),
    [
        (nn.Dense(4), jnp.array([[1, 2, 3]])),
        (nn.DenseGeneral(4), jnp.array([[True, False, True]])),
        (nn.Conv(4, (2,)), jnp.arange(12, dtype=jnp.uint8).reshape(1, 4, 3)),
    ],
    ids=["integers", "booleans", "bytes"],
)
def test_inputs_that_are_no_floats_have_their_side_path(base, x):
    model = LoRA(base, TARGETS_ALL)
    params = randomised(model.init(jax.random.key(0), x)["params"], seed=3)
    assert_trees_close(model.apply({"params": params}, x), base.apply({"params": dense_base(params)}, x))


def test_an_adapter_of_another_model_is_not_ignored():
    params = case_named("dense").params()
    stray = {"other": {name: params[name] for name in ("lora_a", "lora_b", "lora_scale")}, **strip(params)}
    with pytest.raises(LoRAError, match="an adapter at other/lora_a and no kernel beside it"):
        case_named("dense").model().apply({"params": stray}, case_named("dense").x())


def test_half_an_adapter_says_so():
    params = dict(case_named("dense").params())
    del params["lora_scale"]
    with pytest.raises(LoRAError, match="not whole: lora_scale"):
        merge(params)


def with_leaves(case, **leaves) -> dict:
    return {**case.params(), **leaves}


DENSE, EMBED, DORA = case_named("dense"), case_named("embed"), case_named("dense").variant(dora=True)


@pytest.mark.parametrize(
    ("case", "params", "message"),
    [
        (DENSE, with_leaves(DENSE, lora_b=jnp.ones((2, 1))), r"kernel \(4, 5\) does not fit .*lora_b \(2, 1\)"),
        (DENSE, with_leaves(DENSE, lora_scale=jnp.ones(2)), r"kernel \(4, 5\) does not fit .*lora_scale \(2,\)"),
        (DENSE, with_leaves(DENSE, lora_a=jnp.ones((2, 4))), r"kernel \(4, 5\) does not fit lora_a \(2, 4\)"),
        (DENSE, with_leaves(DENSE, lora_a=jnp.ones(4)), r"does not fit lora_a \(4,\)"),
        (EMBED, with_leaves(EMBED, lora_a=jnp.ones((5, 2))), r"embedding \(7, 4\) does not fit lora_a \(5, 2\)"),
        (DORA, with_leaves(DORA, lora_a=jnp.ones((3, 2))), r"kernel \(4, 5\) does not fit lora_a \(3, 2\)"),
        (DORA, with_leaves(DORA, lora_magnitude=jnp.ones((1, 1))), r"does not fit .*lora_magnitude \(1, 1\)"),
        (
            DORA,
            with_leaves(DORA, lora_magnitude=jnp.ones((1, 3)), lora_norm=jnp.ones((1, 3))),
            r"does not fit .*lora_norm \(1, 3\)",
        ),
        (
            case_named("dense").variant(init="pissa"),
            with_leaves(case_named("dense").variant(init="pissa"), lora_start_b=jnp.ones((2, 1))),
            r"does not fit .*lora_start_b \(2, 1\)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_an_adapter_of_another_shape_is_not_run(case, params, message, transform):
    with pytest.raises(LoRAError, match=message):
        transform(lambda params: case.model().apply({"params": params}, case.x()))(params)


@pytest.mark.parametrize("variant", [{}, {"init": "pissa", "dora": True}], ids=str)
@pytest.mark.parametrize("renamed", [None, "lora_A"])
def test_an_adapter_without_its_a_is_not_ignored(variant, renamed):
    case = case_named("dense").variant(**variant)
    params = dict(case.params())
    a = params.pop("lora_a")
    params |= {renamed: a} if renamed else {}
    for act in (merge, report, rounding_error, lambda p: case.model().apply({"params": p}, case.x())):
        with pytest.raises(LoRAError, match=f"no lora_a beside it, only bias, kernel, {renamed or 'lora_b'}"):
            act(params)


class Transposed(nn.Module):
    """A block with a transposed convolution."""

    @nn.compact
    def __call__(self, x, _=None):
        return nn.ConvTranspose(x.shape[-1], (3,), name="up")(nn.Dense(x.shape[-1], name="dense")(x)), None


class OwnProduct(nn.Dense):
    """A subclass that never calls its layer."""

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.ones, (x.shape[-1], self.features))

    def project(self, x):
        return super().__call__(x)


class WithFeatures(nn.Module):
    def setup(self):
        self.body, self.up = nn.Dense(4), nn.ConvTranspose(4, (3,))

    def features(self, x):
        return self.body(x)

    def __call__(self, x):
        return self.up(self.body(x))


def with_adapter(base, args: tuple, module: str, lead: tuple[int, ...] = ()) -> dict:
    """Base parameters with an adapter at a layer that `init` would give none."""
    leaves = flat(jax.jit(base.init)(jax.random.key(0), *args)["params"])
    *axes, features = leaves[module + "kernel"].shape[len(lead) :]
    shapes = {"lora_a": (*lead, int(np.prod(axes)), 2), "lora_b": (*lead, 2, features), "lora_scale": lead}
    return unflatten_dict({**leaves, **{module + name: jnp.ones(shape) for name, shape in shapes.items()}}, sep="/")


def scanned(x):
    stack = nn.scan(
        nn.remat(Transposed, prevent_cse=False), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
    )
    return stack(), (x, None), "up/", (2,)


@pytest.mark.parametrize(
    "made",
    [lambda x: (Transposed(), (x,), "up/"), scanned, lambda x: (OwnProduct(4), (x,), "")],
    ids=["conv_transpose", "scan_remat", "subclass"],
)
def test_an_adapter_of_a_layer_that_no_class_is_known_of_has_its_side_path(made):
    base, args, *where = made(jnp.ones((2, 3, 4)))
    params = randomised(with_adapter(base, args, *where), seed=3)
    model = LoRA(base, TARGETS_ALL)
    expected = base.apply({"params": merge(params)}, *args)
    for run in (model.apply, jax.jit(model.apply)):
        assert_trees_close(run({"params": params}, *args), expected)


def test_a_layer_that_does_not_run_may_have_an_adapter(key):
    base, x = WithFeatures(), jax.random.normal(key, (2, 3, 4))
    params = with_adapter(base, (x,), "up/")
    model = LoRA(base, TARGETS_ALL)
    expected = base.apply({"params": strip(params)}, x, method="features")
    assert_trees_close(model.apply({"params": params}, x, method="features"), expected)


def test_a_layer_whose_trace_is_kept_is_not_refused(key):
    """nn.jit does not trace again: the second run shows no call of the layer."""
    model, x = LoRA(nn.jit(Doubled)(5), TARGETS_ALL), case_named("dense_subclass").x()
    params = case_named("dense_subclass").params()
    for _ in range(2):
        assert_trees_close(model.apply({"params": params}, x), case_named("dense_subclass").apply()(params, x))


def test_a_method_that_calls_its_layer_has_its_side_path(key):
    base, x = OwnProduct(4), jax.random.normal(key, (2, 3))
    params = randomised(with_adapter(nn.Dense(4), (x,), ""), seed=3)
    got = LoRA(base, TARGETS_ALL).apply({"params": params}, x, method="project")
    assert_trees_close(got, nn.Dense(4).apply({"params": dense_base(params)}, x))


def test_an_nnx_model_is_sent_to_its_own_wrapper():
    from flax import nnx

    with pytest.raises(LoRAError, match="for NNX there is lora_jax.nnx.LoRA"):
        LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), TARGETS_ALL).init(jax.random.key(0), jnp.ones((1, 3)))


def test_parameters_in_boxes_are_adapted_merged_and_counted():
    """Boxes as nn.with_partitioning makes them."""
    base = nn.Dense(4, kernel_init=nn.with_partitioning(nn.initializers.normal(), (None, "model")))
    x = jnp.ones((2, 3))
    base_params = base.init(jax.random.key(0), x)["params"]
    model = LoRA(base, TARGETS_ALL)
    params = randomised(adapt(jax.random.key(1), base_params, model, x), seed=3)
    merged = merge(params)
    assert isinstance(merged["kernel"], nn.Partitioned)
    assert_trees_close(base.apply({"params": merged}, x), model.apply({"params": params}, x))
    assert report(params).base == 3 * 4 + 4
    unboxed = nn.meta.unbox(base_params)
    assert adapt(jax.random.key(1), unboxed, model, x)["kernel"] is unboxed["kernel"]
    with pytest.raises(LoRAError, match="mis-shaped kernel"):
        adapt(
            jax.random.key(1),
            {**base_params, "kernel": base_params["kernel"].replace_boxed(jnp.ones((3, 5)))},
            model,
            x,
        )
