"""Does an NNX model with adapters in it behave as NNX models do, whatever its classes, and however its methods are called?"""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.errors import TraceContextError

import lora_jax
from lora_jax import LoRAConfig, LoRAError, adapter_of, merge, strip
from lora_jax import nnx as lora_nnx
from lora_jax.errors import UnsavedStateWarning
from lora_jax.tree import flat, nested
from tests import cases
from tests.cases import assert_trees_close
from tests.nnx_cases import CASES, Block, Stack, every_case

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY = jax.random.key(0)


class Einsum(nnx.Module):
    """As tunix has it: `w`, its equation given with the shape."""

    def __init__(self, equation, shape, rngs):
        self.equation, self.w = equation, nnx.Param(jax.random.normal(rngs.params(), shape) / 2)

    def __call__(self, x):
        return jnp.einsum(self.equation, x, self.w[...])


class Slashed(nnx.Module):
    """A key with "/" in it."""

    def __init__(self, rngs):
        self.all = nnx.Dict({"up/kernel": nnx.Param(jax.random.normal(rngs.params(), (4, 3)) / 2)})

    def __call__(self, x, train=True):
        return x @ self.all["up/kernel"][...]


class Attention(nnx.Module):
    """Fused projections and heads, a kernel by hand and a position table that nothing multiplies."""

    def __init__(self, rngs):
        self.qkv = Einsum("btd,sndh->sbtnh", (3, 2, 4, 3), rngs)
        self.out = Einsum("btnh,nhd->btd", (2, 3, 4), rngs)
        self.table = nnx.Param(jax.random.normal(rngs.params(), (3, 4)))
        self.gate = nnx.Param(jax.random.normal(rngs.params(), (4, 4)) / 2)

    def __call__(self, x):
        q, k, v = self.qkv(x + self.table[...][None])
        weights = nnx.softmax(jnp.einsum("btnh,bsnh->bnts", q, k))
        return self.out(jnp.einsum("bnts,bsnh->btnh", weights, v)) * nnx.sigmoid(x @ self.gate[...].T)


class Experts(nnx.Module):
    """Kernels in a list and in a dict, and a stack of experts of which each has factors of its own."""

    def __init__(self, rngs):
        def draw(*shape):
            return nnx.Param(jax.random.normal(rngs.params(), shape) / 2)

        self.each = nnx.List([draw(4, 5), draw(5, 4)])
        self.named = nnx.Dict(up=draw(4, 3))
        self.experts = draw(2, 4, 4)

    def __call__(self, x):
        x = nnx.tanh(x @ self.each[0][...]) @ self.each[1][...]
        return jnp.einsum("...d,edf->...ef", x, self.experts[...]) @ self.named["up"][...]


class Cell(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(4, 5, rngs=rngs))

    def __call__(self, x):
        return self.rnn(x)


class TiedByHand(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.layer = nnx.Embed(7, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, ids):
        return self.layer(self.embed(ids)) @ self.embed.embedding[...].T


class Shared(nnx.Module):
    """Two layers, and a product by hand, of one Variable."""

    def __init__(self, rngs):
        self.one, self.other = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.other.kernel = self.one.kernel

    def __call__(self, x):
        return self.other(nnx.tanh(self.one(x))) @ self.one.kernel[...].T


class OwnCall(nnx.Linear):
    def __call__(self, x):
        return x @ self.kernel[...]


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
MODELS = {
    "attention": (Attention, X, {"gate:oi", "out/w:iio", "qkv/w:ooio"}),
    "experts": (Experts, X, {"each/0:io", "each/1:io", "experts:oio", "named/up:io"}),
    "cell": (Cell, X, {"rnn/cell/dense_h", "rnn/cell/dense_i"}),
    "tied_by_hand": (TiedByHand, jnp.array([[1, 2, 6]]), {"embed", "layer"}),
    "shared": (Shared, X, {"one"}),
    "slashed": (Slashed, X, {"all/up%2Fkernel:io"}),
    "own_call": (lambda rngs: OwnCall(4, 3, rngs=rngs), X, {""}),
}
every_model = pytest.mark.parametrize("name", MODELS)


def randomised(params, seed):
    """By names as the library has them."""
    return nested(cases.flat(cases.randomised(flat(params), seed)))


def adapted(name, **fields):
    """(wrapper, parameters with random factors, input)."""
    build, x, _ = MODELS[name]
    config = LoRAConfig(rank=2, targets=("all-linear", "embed") if name == "tied_by_hand" else "all-linear", **fields)
    model = lora_nnx.LoRA(build(nnx.Rngs(0)), config)
    return model, randomised(lora_jax.adapt(KEY, model.base_params, model, x), seed=3), x


def close(got, expected):
    assert_trees_close(got, expected, 2e-5)


@every_model
def test_kernels_of_any_class_are_found_and_their_output_is_that_of_the_merged_model(name):
    model, params, x = adapted(name)
    assert {path.removesuffix("lora_a").rstrip("/") for path in flat(params) if path.endswith("lora_a")} == MODELS[
        name
    ][2]
    expected = model.inject(merge(params))(x)
    close(model.apply({"params": params}, x), expected)
    injected = model.inject(params)
    close(injected(x), expected)
    close(nnx.jit(lambda model, x: model(x))(injected, x), expected)
    assert np.abs(np.asarray(expected - model.base_module(x))).max() > 1e-2
    jax.tree.map(np.testing.assert_array_equal, model.params_of(injected), params)


@every_model
def test_gradients_are_those_of_the_wrapper_and_of_adapters_alone(name):
    model, params, x = adapted(name)
    loss = lambda m, x: jnp.mean(m(x) ** 2)  # noqa: E731
    gradient = nnx.jit(nnx.grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam)))(model.inject(params), x)
    found = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(gradient)}
    base, adapter = strip(params), adapter_of(params)
    loss = lambda adapter: jnp.mean(model.apply({"params": lora_jax.combine(base, adapter)}, x) ** 2)  # noqa: E731
    own = jax.jit(jax.grad(loss))(adapter)
    expected = {path: leaf for path, leaf in flat(own).items() if not path.endswith("lora_scale")}
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=1e-5)


@every_case
def test_an_injected_layer_gives_what_the_wrapper_gives(case):
    close(case.model().inject(case.params())(case.x()), case.apply()(case.params(), case.x()))


def test_parts_of_a_model_have_their_adapters():
    model, params, x = adapted("shared")
    injected, plain = model.inject(params), model.inject(merge(params))
    close(injected.one(x), plain.one(x))
    close(injected.other(x), plain.other(x))
    case = next(case for case in CASES if case.name == "stack")
    injected, plain = (case.model().inject(tree) for tree in (case.params(), merge(case.params())))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, block):
        return block(x)

    close(run(case.x(), injected.blocks), plain(case.x()))


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@every_model
@pytest.mark.parametrize("change", [pickled, copy.deepcopy, nnx.clone])
def test_copies(name, change):
    model, params, x = adapted(name)
    if change is pickled and name == "cell":
        pytest.skip("it holds jax.numpy.tanh, which cannot be pickled")
    injected = model.inject(params)
    again = change(injected)
    assert type(again) is type(injected)
    np.testing.assert_array_equal(again(x), injected(x))


def test_a_graph_is_pickled_too():
    model, params, x = adapted("attention")
    injected = model.inject(params)
    graph, state = nnx.split(injected)
    again = nnx.merge(pickle.loads(pickle.dumps(graph)), state)
    np.testing.assert_array_equal(again(x), injected(x))


def test_an_optimizer_trains_the_adapters_and_the_base_stays():
    model, params, x = adapted("attention")
    injected = model.inject(params)
    optimizer = nnx.Optimizer(injected, optax.adam(1e-2), wrt=nnx.LoRAParam)

    @nnx.jit
    def step(model, optimizer, x):
        loss, gradient = nnx.value_and_grad(
            lambda m: jnp.mean(m(x) ** 2), argnums=nnx.DiffState(0, lora_nnx.LoRAParam)
        )(model)
        optimizer.update(model, gradient)
        return loss

    losses = [float(step(injected, optimizer, x)) for _ in range(3)]
    assert losses[2] < losses[0]
    before, after = flat(params), flat(model.params_of(injected))
    moved = {path for path in before if np.any(np.asarray(before[path]) != np.asarray(after[path]))}
    assert moved == {path for path in before if path.endswith(("lora_a", "lora_b"))}


class Stateful(nnx.Module):
    """Statistics, random counts, a cache, an attribute and a new variable: all that a call may change."""

    def __init__(self, rngs):
        self.layer, self.norm = nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.drop, self.calls, self.count = nnx.Dropout(0.5, rngs=rngs), 0, nnx.Variable(jnp.zeros(()))
        self.buffer = jnp.zeros((4,))

    def __call__(self, x, rngs=None):
        self.calls += 1
        self.count[...] += 1
        self.buffer = self.buffer + x[0, 0]
        self.seen = nnx.Intermediate(x)
        x = self.norm(self.layer(x))
        return self.drop(x, rngs=rngs)

    def reset(self):
        self.layer.kernel[...] = jnp.zeros((4, 4))


def test_what_a_call_changes_is_written_back():
    model = lora_nnx.LoRA(Stateful(nnx.Rngs(0)), LoRAConfig(rank=2))
    params = randomised(model.init(KEY)["params"], seed=3)
    injected, plain = model.inject(params), model.inject(merge(params))
    for _ in range(2):
        np.testing.assert_allclose(injected(X), plain(X), rtol=1e-5, atol=1e-5)
    assert (injected.calls, float(injected.count[...])) == (plain.calls, float(plain.count[...])) == (2, 2)
    np.testing.assert_array_equal(injected.seen[...], X)
    np.testing.assert_allclose(injected.norm.mean[...], plain.norm.mean[...], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(injected.buffer, plain.buffer)
    streams = nnx.Rngs(dropout=1), nnx.Rngs(dropout=1)
    np.testing.assert_allclose(injected(X, rngs=streams[0]), plain(X, rngs=streams[1]), rtol=1e-5, atol=1e-5)
    assert int(streams[0].dropout.count[...]) == int(streams[1].dropout.count[...]) == 1
    with pytest.warns(UnsavedStateWarning, match="norm/mean has changed"):
        jax.tree.map(np.testing.assert_array_equal, model.params_of(injected), params)
    with pytest.raises(LoRAError, match="reset changes layer/kernel, which has an adapter"):
        injected.reset()


def test_a_cache_is_made_and_filled():
    base = nnx.MultiHeadAttention(2, 4, decode=True, rngs=nnx.Rngs(0))
    model = lora_nnx.LoRA(base, LoRAConfig(rank=2))
    params = randomised(model.init(KEY)["params"], seed=3)
    injected, plain = model.inject(params), model.inject(merge(params))
    for one in (injected, plain):
        one.init_cache((2, 3, 4))
    for t in range(3):
        np.testing.assert_allclose(injected(X[:, t : t + 1]), plain(X[:, t : t + 1]), rtol=1e-4, atol=1e-5)
    assert int(injected.cache_index[...]) == 3


def test_a_model_from_outside_of_a_trace_may_be_read_in_it():
    model, params, x = adapted("attention")
    injected = model.inject(params)
    close(jax.jit(lambda x: injected(x))(x), injected(x))


def test_a_model_from_outside_of_a_trace_may_not_be_changed_in_it():
    model = lora_nnx.LoRA(Stateful(nnx.Rngs(0)), LoRAConfig(rank=2))
    injected = model.inject(model.init(KEY)["params"])
    with pytest.raises(TraceContextError):
        jax.jit(lambda x: injected(x))(X)
    assert injected.calls == 0 and float(injected.count[...]) == 0


class SplitByParam(Stack):
    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.StateAxes({nnx.Param: 0}), nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.blocks, x)


def test_a_scan_over_params_alone():
    model = lora_nnx.LoRA(SplitByParam(jnp.float32, nnx.Rngs(0)), LoRAConfig(rank=2))
    params = randomised(model.init(KEY)["params"], seed=3)
    injected, x = model.inject(params), X[0]
    close(injected(x), model.inject(merge(params))(x))
    nnx.grad(lambda m: jnp.sum(m(x)), argnums=nnx.DiffState(0, nnx.LoRAParam))(injected)
    jax.tree.map(np.testing.assert_array_equal, model.params_of(injected), params)


def test_a_part_of_another_adapted_model_may_be_an_argument():
    model = lora_nnx.LoRA(Borrowing(nnx.Rngs(0)), LoRAConfig(rank=2))
    params = randomised(model.init(KEY)["params"], seed=3)
    other, other_params, x = adapted("own_call")
    injected, plain = model.inject(params), model.inject(merge(params))
    close(injected(x, other.inject(other_params)), plain(x, other.inject(merge(other_params))))


class Borrowing(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x, head):
        return head(self.layer(x))


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.layer, self.drop = nnx.Linear(4, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.layer(x))


def differ(one, other):
    return bool(np.any(np.asarray(one) != np.asarray(other)))


@pytest.mark.parametrize("build", [Dropping, lambda rngs: nnx.Linear(4, 4, rngs=rngs), lambda rngs: Stack(None, rngs)])
def test_adapter_dropout_follows_the_mode_of_an_injected_model(build):
    model = lora_nnx.LoRA(build(nnx.Rngs(0)), LoRAConfig(rank=2, dropout=0.5))
    params, x = randomised(model.init(KEY)["params"], seed=3), X[0]
    injected = model.inject(params, rngs={"dropout": KEY})
    assert differ(injected(x), injected(x))
    injected.eval()
    np.testing.assert_array_equal(injected(x), injected(x))
    close(injected(x), model.apply({"params": params}, x))
    injected.train()
    assert differ(injected(x), injected(x))
    quiet = model.inject(params)
    quiet.eval()
    close(quiet(x), model.apply({"params": params}, x))
    quiet.train()
    with pytest.raises(LoRAError, match="in training mode, but `inject` got no key"):
        quiet(x)


def test_adapter_dropout_follows_an_argument_of_the_call():
    model, params, x = adapted("slashed", dropout=0.5)
    injected = model.inject(params, rngs={"dropout": KEY})
    without = model.apply({"params": params}, x)
    assert differ(injected(x), without) and differ(model.apply({"params": params}, x, rngs={"dropout": KEY}), without)
    for off in ((x, False), (x,)):
        more = {} if len(off) == 2 else {"train": False}
        close(injected(*off, **more), without)
        close(model.apply({"params": params}, *off, rngs={"dropout": KEY}, **more), without)


def test_layers_of_a_stack_have_masks_of_their_own():
    model = lora_nnx.LoRA(Stack(jnp.float32, nnx.Rngs(0)), LoRAConfig(rank=2, dropout=0.5))
    injected = model.inject(randomised(model.init(KEY)["params"], seed=3), rngs={"dropout": KEY})

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, block):
        return block(x)

    assert differ(run(X[0], injected.blocks), run(X[0], injected.blocks))


def test_apply_without_a_key_is_evaluation_and_with_one_the_model_s_own_mode():
    base = Dropping(nnx.Rngs(0))
    model = lora_nnx.LoRA(base, LoRAConfig(rank=2, dropout=0.5))
    params = randomised(model.init(KEY)["params"], seed=3)
    without = model.apply({"params": params}, X)
    close(without, X @ merge(params)["layer"]["kernel"] + params["layer"]["bias"][None, None])
    assert not base.drop.deterministic
    assert differ(model.apply({"params": params}, X, rngs={"dropout": KEY}), without)
    base.eval()
    still = lora_nnx.LoRA(base, model.config)
    close(still.apply({"params": params}, X, rngs={"dropout": KEY}), without)


def test_what_nnx_hands_out_is_taken():
    base = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    model = lora_nnx.LoRA(base, LoRAConfig(rank=2))
    expected = lora_jax.adapt(KEY, model.base_params, model)
    for form in (nnx.state(base), nnx.to_pure_dict(nnx.state(base, nnx.Param)), nnx.state(base, nnx.Param)):
        got = lora_jax.adapt(KEY, form, model)
        assert list(got) == ["layers"] and list(got["layers"]) == ["0", "1"]
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        close(model.apply({"params": form}, X), base(X))
        close(model.inject(form)(X), base(X))


@pytest.mark.parametrize("fields", [{}, {"dora": True}, {"init": "pissa"}], ids=str)
def test_an_abstract_model_is_adapted_on_given_parameters(fields):
    config = LoRAConfig(rank=2, **fields)
    real = lora_nnx.LoRA(Dropping(nnx.Rngs(0)), config)
    model = lora_nnx.LoRA(nnx.eval_shape(lambda: Dropping(nnx.Rngs(1))), config)
    params = lora_jax.adapt(KEY, real.base_params, model, X)
    jax.tree.map(np.testing.assert_array_equal, params, lora_jax.adapt(KEY, real.base_params, real, X))
    params = randomised(params, seed=3)
    close(model.apply({"params": params}, X), real.apply({"params": params}, X))
    injected = model.inject(params, rngs={"dropout": KEY})
    assert differ(injected(X), injected(X))
    injected.eval()
    close(injected(X), real.apply({"params": params}, X))
    with pytest.raises(LoRAError, match="drop/rngs/.* is no parameter"):
        model.inject(params)


def no_input(targets, excludes=()):
    lora_nnx.LoRA(Attention(nnx.Rngs(0)), LoRAConfig(rank=2, targets=targets, excludes=excludes)).init(KEY)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: no_input("qkv"), "'qkv' may select qkv/w, and only a run.*give an example input"),
        (lambda: no_input("all-linear"), "give an example input"),
        (lambda: no_input("qvk"), "closest to 'qvk': qkv"),
        (lambda: adapted_to("table"), "'table' matches no layer that LoRA can adapt"),
        (lambda: lora_nnx.LoRA(Shared(nnx.Rngs(0)), LoRAConfig(rank=2, targets="other")), "NNX keeps as one/kernel"),
        (
            lambda: lora_nnx.LoRA(Stack(None, nnx.Rngs(0)), LoRAConfig(rank=2, targets="blocks/0/up")),
            "'blocks/0/up': blocks/up/kernel is one array for a stack of 3 layers.*write 'blocks/up'",
        ),
        (lambda: lora_nnx.LoRA(nnx.eval_shape(lambda: Dropping(nnx.Rngs(0))), LoRAConfig(rank=2)).init(KEY), "abstract"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


def adapted_to(targets):
    lora_nnx.LoRA(Attention(nnx.Rngs(0)), LoRAConfig(rank=2, targets=targets)).init(KEY, X)


def test_targets_of_known_layers_need_no_input():
    model = lora_nnx.LoRA(TiedByHand(nnx.Rngs(0)), LoRAConfig(rank=2, targets="layer"))
    assert list(adapter_of(model.init(KEY)["params"])) == ["layer"]
    same = lora_jax.adapt(KEY, model.base_params, model, jnp.array([[1]]))
    jax.tree.map(np.testing.assert_array_equal, same, model.init(KEY)["params"])


@every_case
def test_known_layers_get_without_an_input_what_they_get_with_one(case):
    model = case.model()
    alone, followed = model.init(KEY)["params"], model.init(KEY, case.x())["params"]
    jax.tree.map(np.testing.assert_array_equal, alone, followed)
    found, known = model.layout_of(case.x()), model.layout
    assert found.keys() == known.keys()
    assert [(site.roles, site.kind) for site in found.values()] == [(known[p].roles, known[p].kind) for p in found]


def test_a_layout_tells_of_all_uses():
    layout = adapted("tied_by_hand")[0].layout_of(MODELS["tied_by_hand"][1])
    assert layout["embed"].is_tied and not layout["layer"].is_tied
    assert list(adapted("attention")[0].layout_of(X).missed) == ["table"]


class Choosing(nnx.Module):
    """A layer within nnx.cond, one within nnx.fori_loop, a stack under nnx.vmap."""

    def __init__(self, rngs):
        self.one, self.other = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.cond(x.sum() > 0, lambda one, x: one(x), lambda one, x: one(-x), self.one, x)
        _, x = nnx.fori_loop(0, 2, lambda i, carry: (carry[0], nnx.tanh(carry[0](carry[1]))), (self.other, x))
        return nnx.vmap(lambda one, x: one(x), in_axes=(None, 0))(self.one, x)


def test_transforms_of_nnx_inside_of_a_model():
    model = lora_nnx.LoRA(Choosing(nnx.Rngs(0)), LoRAConfig(rank=2))
    params = randomised(model.init(KEY)["params"], seed=3)
    close(model.inject(params)(X), model.inject(merge(params))(X))


def test_blocks_are_plain_nnx_inside():
    """A call inside of a call is the model's own, classes too."""
    seen = []

    class Watching(nnx.Module):
        def __init__(self, rngs):
            self.block = Block(jnp.float32, rngs)

        def __call__(self, x):
            seen.append((type(self), type(self.block), type(self.block.up)))
            return self.block(x)

    model = lora_nnx.LoRA(Watching(nnx.Rngs(0)), LoRAConfig(rank=2))
    injected = model.inject(model.init(KEY)["params"])
    injected(X)
    assert seen[-1] == (Watching, Block, nnx.Linear)
    assert isinstance(injected, Watching) and isinstance(injected.block.up, nnx.Linear)
