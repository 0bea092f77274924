"""Is it Llama, number by number? Largest error measured against `transformers` in float64: 7e-6, of values up to 6.5."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, adapt, combine, merge, partition, report, strip, trainable_mask
from lora_jax.errors import ModelError
from lora_jax.models import attention, rope
from lora_jax.models.causal_lm import PRESETS, CausalLM, CausalLMConfig, empty_cache
from lora_jax.models.token_loss import token_losses
from tests.cases import equations, flat, randomised
from tests.llama_golden import NAMES, TOLERANCE, folder, golden, ids, logits, model

pytestmark = pytest.mark.usefixtures("quick_compile")


def close(a, b, atol: float = TOLERANCE) -> None:
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    close(logits(name), golden()[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{"remat": True}, {"dtype": jnp.bfloat16}], ids=str)
def test_remat_changes_nothing_and_bfloat16_little(name, options):
    got = logits(name, **options)
    assert got.dtype == options.get("dtype", jnp.float32)
    close(got.astype(jnp.float32), golden()[name], 0.4 if "dtype" in options else TOLERANCE)


def test_no_token_sees_a_later_one():
    changed = ids().at[:, 7].set((ids()[:, 7] + 1) % 37)
    before, after = logits(), logits("llama_tied", changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (np.abs(before[:, 7:] - after[:, 7:]).max(axis=(0, 2)) > 1e-3).all()


def test_packed_documents_are_documents_by_themselves():
    segments = jnp.asarray([[1] * 5 + [2] * 6 + [0] * 2] * 3)
    packed = logits("llama_tied", ids(), segments)
    close(packed[:, :5], logits("llama_tied", ids()[:, :5]))
    close(packed[:, 5:11], logits("llama_tied", ids()[:, 5:11]))
    assert np.abs(packed[:, 5:11] - logits()[:, 5:11]).max() > 0.1


@pytest.mark.parametrize("cut", [(4, 1, 1, 5, 2), (1,) * 13, (13,)])
def test_with_a_cache_in_pieces_of_any_size_the_logits_are_the_same(cut):
    decoder, params = model(), folder().params
    cache = empty_cache(decoder.config, 3, 15)
    states, start = [], 0
    for size in cut:
        positions = jnp.broadcast_to(jnp.arange(start, start + size), (3, size))
        piece, cache = decoder.apply(
            {"params": params}, ids()[:, start : start + size], positions, cache, method="extend"
        )
        states.append(piece)
        start += size
    close(decoder.apply({"params": params}, jnp.concatenate(states, axis=1), method="score"), golden()["llama_tied"])


def test_rows_of_a_cache_may_be_at_different_places():
    decoder, params = model(), folder().params
    starts = jnp.asarray([2, 9, 5])
    cache = empty_cache(decoder.config, 3, 13)
    places = jnp.broadcast_to(jnp.arange(12), (3, 12))
    _, cache = decoder.apply(
        {"params": params}, ids()[:, :12], places, cache, method="extend"
    )  # also beyond the starts
    token = jnp.take_along_axis(ids(), starts[:, None], axis=1)
    states, _ = decoder.apply({"params": params}, token, starts[:, None], cache, method="extend")
    got = decoder.apply({"params": params}, states[:, 0], method="score")
    close(got, golden()["llama_tied"][jnp.arange(3), starts])


def test_rotation_depends_on_distances_only(key):
    """<R_m q, R_n k> is a function of m - n (Su et al. 2021, equation 11), and lengths stay."""
    q, k = jax.random.normal(key, (2, 1, 1, 1, 8))
    at = lambda x, m: rope.rotate(x, rope.rotation(jnp.asarray([[m]]), 8, 100.0))  # noqa: E731
    close((at(q, 9) * at(k, 4)).sum(), (at(q, 5) * at(k, 0)).sum(), 1e-5)
    assert abs((at(q, 9) * at(k, 4)).sum() - (at(q, 9) * at(k, 5)).sum()) > 1e-3
    close(jnp.linalg.norm(at(q, 9)), jnp.linalg.norm(q))


@pytest.mark.parametrize(("backend", "queries"), [("cpu", 2), ("cpu", 64), ("gpu", None)])
def test_attention_is_the_same_on_every_platform(backend, queries, key, monkeypatch):
    """Row by row and a few queries at a time, or all at once; against a plain softmax in numpy."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(attention, "QUERIES", queries)
    q, k, v = (jax.random.normal(key, (2, 5, heads, 4)) for heads in (6, 2, 2))
    v = v + 1
    segments = jnp.asarray([[1, 1, 1, 2, 2], [1, 1, 1, 1, 1]])
    got = attention.within_documents(q, k, v, segments)
    for b, t, h in np.ndindex(2, 5, 6):
        seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
        scores = np.asarray([q[b, t, h] @ k[b, s, h // 3] for s in seen]) / 2
        weights = np.exp(scores - scores.max())
        close(got[b, t, h], (weights / weights.sum()) @ np.asarray([v[b, s, h // 3] for s in seen]))


@pytest.mark.parametrize("train", [("states",), ("table",), ("states", "table")], ids="+".join)
@pytest.mark.parametrize("chunk", [1, 4, 7, 512])
def test_the_loss_in_chunks_is_the_loss(chunk, train, key):
    given = {"states": jax.random.normal(key, (7, 5)), "table": jax.random.normal(key, (5, 3))}
    targets, weights = jnp.arange(7) % 3, jnp.arange(7.0)

    def loss(trained, losses):
        params = given | trained
        return (weights * losses(lambda x: x @ params["table"], params["states"])).sum()

    def whole(score, states):
        return -jnp.take_along_axis(jax.nn.log_softmax(score(states)), targets[:, None], axis=1)[:, 0]

    def chunked(score, states):
        return token_losses(score, states, targets, chunk=chunk)

    trained = {name: given[name] for name in train}
    (value, gradients), (expected, by_hand) = (jax.value_and_grad(loss)(trained, of) for of in (chunked, whole))
    close(value, expected, 1e-5)
    chex.assert_trees_all_close(gradients, by_hand, atol=1e-5)


@pytest.mark.parametrize("around", [lambda loss: loss, jax.jit, jax.checkpoint], ids=["", "jit", "checkpoint"])
def test_a_head_may_read_integers_in_whatever_trace(around, key):
    """Codes, as a quantised base keeps them: they have no gradient, and belong to a trace inside the differentiated one."""
    states, codes = jax.random.normal(key, (2, 6, 5)), jnp.arange(15, dtype=jnp.int8).reshape(5, 3) - 7
    targets = jnp.arange(6) % 3

    def whole(score, states):
        return -jnp.take_along_axis(jax.nn.log_softmax(score(states)), targets[:, None], axis=1)[:, 0]

    def chunked(score, states):
        return token_losses(score, states, targets, chunk=4)

    def gradients(losses):
        loss = around(lambda states, codes: (jnp.arange(6.0) * losses(lambda x: x @ (codes / 8), states)).sum())
        return jax.vmap(jax.grad(loss), (0, None))(states, codes)

    close(gradients(chunked), gradients(whole), 1e-5)


def test_the_gradient_of_narrow_states_is_rounded_once(key):
    states, table = jax.random.normal(key, (6, 5), jnp.bfloat16), jax.random.normal(key, (5, 3), jnp.bfloat16)
    weights = jnp.linspace(0.1, 1, 6) / 7

    def loss(states):
        return (weights * token_losses(lambda x: x @ table, states, jnp.zeros(6, jnp.int32), chunk=4)).sum()

    def whole(states):
        return -(weights * jax.nn.log_softmax((states @ table).astype(jnp.float32))[:, 0]).sum()

    got, expected = jax.grad(loss)(states), jax.grad(whole)(states)
    assert got.dtype == jnp.bfloat16
    close(got.astype(jnp.float32), expected.astype(jnp.float32), 0.002)


@pytest.mark.parametrize(("train", "products"), [("states", 2), ("table", 3)])
def test_logits_are_made_again_only_for_a_head_that_trains(train, products, key):
    """Frozen: the logits and the states' gradient. Training: the logits, again, and the head's gradient."""
    given = {"states": jnp.ones((6, 5)), "table": jnp.ones((5, 3))}

    def loss(trained):
        params = given | trained
        return token_losses(lambda x: x @ params["table"], params["states"], jnp.zeros(6, jnp.int32), chunk=2).sum()

    program = jax.jit(jax.grad(loss)).trace({train: given[train]}).jaxpr.jaxpr
    assert sum(of.primitive.name == "dot_general" for of in equations(program)) == products


def test_a_head_does_not_train_because_layers_before_it_have_adapters(key):
    """What a wrapper hands over beside the head is not what the head reads."""
    wrapped = LoRA(CausalLM(PRESETS["0.3M"]), LoRAConfig(rank=2, targets=("*_proj",)))
    ids = jnp.ones((2, 4), jnp.int32)
    params = jax.eval_shape(lambda: wrapped.init(key, ids)["params"])
    frozen, trainable = partition(params, trainable_mask(params))

    def loss(trainable, frozen):
        tree = {"params": combine(frozen, trainable)}
        states = wrapped.apply(tree, ids, method="hidden").reshape(8, -1)
        return token_losses(
            lambda x: wrapped.apply(tree, x, method="score"), states, jnp.zeros(8, jnp.int32), chunk=4
        ).sum()

    program = jax.make_jaxpr(jax.grad(loss))(trainable, frozen).jaxpr
    made = [of.outvars[0].aval.shape for of in equations(program) if of.primitive.name == "dot_general"]
    assert made.count((4, PRESETS["0.3M"].vocab_size)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_lora_on_every_linear_layer_equals_the_merged_model(name):
    config = LoRAConfig(rank=2, alpha=4, targets=("*_proj",))
    wrapped, base = LoRA(model(name), config), folder(name).params
    params = randomised(adapt(jax.random.key(0), base, wrapped, ids()), seed=0)
    adapted = wrapped.apply({"params": params}, ids())
    assert np.abs(adapted - golden()[name]).max() > 0.1
    close(adapted, logits(name, params=merge(params)), 3e-4)  # of logits up to 10
    chex.assert_trees_all_equal(strip(params), base)
    assert len(report(params).rows) == 7


@pytest.mark.parametrize("remat", [False, True])
def test_a_layer_keeps_the_results_of_its_products_only(remat):
    """Of each layer [16 tokens]: q, k, v, context, o (not needed later), gate, up (down neither), and its own input."""
    config = CausalLMConfig(37, 24, 40, 3, 4, 2, 16)
    wrapped = LoRA(CausalLM(config, remat=remat), LoRAConfig(rank=2, targets="*_proj"))
    tokens = jnp.ones((2, 8), jnp.int32)
    base = wrapped.base_module.init(jax.random.key(0), tokens)["params"]
    params = adapt(jax.random.key(1), base, wrapped, tokens)
    frozen, adapters = partition(params, trainable_mask(params))

    def of_adapters(adapters):
        return wrapped.apply({"params": combine(frozen, adapters)}, tokens).sum()

    def of_base(base):
        return wrapped.base_module.apply({"params": base}, tokens).sum()

    # Heads are 6 wide, two of them of keys and values.
    expected = 16 * (24 if remat else 24 + 24 + 12 + 12 + 24 + 24 + 40 + 40)
    assert kept(of_adapters, adapters, layers=3) == kept(of_base, base, layers=3) == expected


def kept(fn, params, *, layers: int) -> int:
    """How many numbers of each layer the scan over layers hands from its forward to its backward pass."""
    forward = next(e for e in equations(jax.make_jaxpr(jax.grad(fn))(params).jaxpr) if e.params.get("length") == layers)
    stacked = [out.aval for out in forward.outvars if out.aval.shape[:1] == (layers,)]
    return sum(aval.size for aval in stacked if aval.size >= layers * 16 * 12) // layers


def test_sizes_are_what_their_names_say():
    for name, config in PRESETS.items():
        tree = jax.eval_shape(CausalLM(config).init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
        count = sum(leaf.size for leaf in flat(tree).values())
        assert abs(count / (1e6 * float(name.removesuffix("M"))) - 1) < 0.4, (name, count)
    assert count == 25_829_888  # study S4's


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be an integer of 1 or more"),
        ({"num_attention_heads": 5}, "hidden_size 512 is no multiple of num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "num_attention_heads 8 is no multiple of num_key_value_heads 3"),
        ({"hidden_size": 24}, "a head is 3 wide; rotary positions need an even width"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0; it must be a positive number"),
    ],
)
def test_sizes_that_cannot_be(change, part):
    with pytest.raises(ModelError, match=part):
        dataclasses.replace(CausalLMConfig(), **change)


def test_more_tokens_than_positions():
    with pytest.raises(ModelError, match="given 33 tokens, and has 32 positions; cut the input"):
        logits("llama_tied", jnp.ones((1, 33), jnp.int32))
