"""Functions of parameter trees that no layer class describes, each with what is to be found in it.

Letters: B batch, T tokens, D features in, N heads, H head width, K features out, E experts, L layers, V vocabulary, R rank.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Case(NamedTuple):
    """`fn(params, x)`; shapes of the parameters; roles of every leaf that a product reads."""

    fn: Callable
    shapes: dict[str, Any]
    roles: dict[str, str]
    x: Any = (2, 7, 4)  # a shape, or an array

    def params(self, dtype: Any = jnp.float32) -> Any:
        random = np.random.default_rng(0)
        is_shape = lambda value: isinstance(value, tuple) and all(isinstance(n, int) for n in value)  # noqa: E731
        return jax.tree.map(
            lambda shape: jnp.asarray(random.normal(size=shape) / 2, dtype), self.shapes, is_leaf=is_shape
        )

    def input(self, dtype: Any = jnp.float32) -> jax.Array:
        if isinstance(self.x, tuple):
            return jnp.asarray(np.random.default_rng(1).normal(size=self.x), dtype)
        return self.x


def scanned(axis: int, **remat: Any) -> Callable:
    def fn(params, x):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        layer = jax.checkpoint(layer, **remat) if remat else layer
        return lax.scan(layer, x, jnp.moveaxis(params["w"], axis, 0))[0]

    return fn


def gemma(params, x):
    q = jnp.einsum("btd,ndh->btnh", x, params["q"])
    k, v = jnp.einsum("bsd,ckdh->cbskh", x, params["kv"])
    weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k))
    return jnp.einsum("btnh,nhd->btd", jnp.einsum("bnts,bsnh->btnh", weights, v), params["out"])


def lstm(params, x):
    """Kernels of the four gates side by side."""
    w = jnp.concatenate([params[name] for name in "ifgo"], axis=-1)
    i, f, g, o = jnp.split(x @ w, 4, axis=-1)
    return jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(f) + jax.nn.sigmoid(i) * jnp.tanh(g))


def tied(params, ids):
    """A table looked up, and read by hand as the output layer."""
    return jnp.tanh(params["table"][ids] @ params["w"]) @ params["table"].T


def many_tables(params, ids):
    """A table for each of a batch, looked up under vmap; and whole matrices, picked out of stacks of stacks."""
    rows = jax.vmap(lambda table, ids: table[ids])(params["tables"], ids)
    matrices = jax.vmap(lambda stack, k: stack[k], in_axes=(1, 0))(params["stacks"], ids[:, 0])
    return jnp.einsum("btd,bdk->btk", rows, matrices)


def experts(params, x):
    return jnp.einsum("ecf,efd->ecd", jax.nn.relu(jnp.einsum("ecd,edf->ecf", x, params["up"])), params["down"])


def chosen_expert(params, x):
    """The expert of each row, picked out of a stack."""
    return jnp.einsum("bd,bdk->bk", x, params["w"][jnp.array([1, 0, 1])])


def ragged(params, x):
    return lax.ragged_dot(
        jax.nn.relu(lax.ragged_dot(x, params["up"], jnp.array([2, 1, 3]))), params["down"], jnp.array([2, 1, 3])
    )


def convolved(groups: int = 1, **how: Any) -> Callable:
    def fn(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, params["w"], dimension_numbers=numbers, feature_group_count=groups, **how)

    return fn


@jax.custom_vjp
def straight(x, w):
    """A product whose derivative for x is five times too large."""
    return jnp.tanh(x @ w)


def _forward(x, w):
    return straight(x, w), (x, w)


def _backward(kept, g):
    x, w = kept
    g = g * (1 - jnp.tanh(x @ w) ** 2)
    return 5 * g @ w.T, x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])


straight.defvjp(_forward, _backward)


def handed_on(params, x):
    """As an NNX scan has it: the weights go through a remat and come out of the scan again, and a product reads one of them there."""

    def layer(x, w):
        return jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), w))(x, w)

    x, ws = lax.scan(layer, x, params["w"])
    return x @ ws[1]


def carried(params, x):
    """A weight in the carry of a scan, of a fori_loop, and in both branches of a cond."""

    def layer(carry, _):
        x, w = carry
        return (jnp.tanh(x @ w), w), None

    (x, w), _ = lax.scan(layer, (x, params["w"]), None, length=2)
    x = lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ params["loop"]), x)
    return lax.cond(x.sum() > 0, lambda x: x @ params["yes"], lambda x: x @ params["no"], x) + x @ w


def indexed(params, x):
    """A stack of which a loop takes a layer at a time."""
    return lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ lax.dynamic_index_in_dim(params["w"], i, keepdims=False)), x)


def sharded(params, x):
    """Over a mesh of one device."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"in_specs": (jax.P("data"), jax.P(None, "data")), "out_specs": jax.P("data")}
    return jax.shard_map(lambda x, w: jnp.tanh(x @ w), mesh=mesh, **specs)(x, params["w"])


def weight_norm(params, x):
    w = params["w"] / jnp.linalg.norm(params["w"], axis=0, keepdims=True)
    return x @ w + x @ params["plain"]


IDS = jnp.array([[1, 4, 0], [2, 2, 3]])
CASES = {
    "x w": Case(lambda p, x: x @ p["w"], {"w": (4, 5)}, {"w": "io"}),
    "x w^T": Case(lambda p, x: x @ p["w"].T, {"w": (5, 4)}, {"w": "oi"}),
    "w x": Case(lambda p, x: p["w"] @ x, {"w": (5, 7)}, {"w": "oi"}),
    "doubled, and read twice": Case(lambda p, x: x @ (2 * p["w"]) + x @ -p["w"].T, {"w": (4, 4)}, {"w": "io"}),
    "gemma": Case(gemma, {"q": (2, 4, 3), "kv": (2, 2, 4, 3), "out": (2, 3, 4)}, {"q": "oio", "kv": "ooio", "out": "iio"}),
    "fused, then sliced": Case(
        lambda p, x: sum(jnp.tanh(x @ w) for w in jnp.split(p["w"], 3, axis=1)), {"w": (4, 15)}, {"w": "io"}
    ),
    "stacked query, key, value": Case(
        lambda p, x: jnp.einsum("btd,cdnh->cbtnh", x, p["w"]).sum(0), {"w": (3, 4, 2, 5)}, {"w": "oioo"}
    ),
    "summed before the product": Case(
        lambda p, x: jnp.einsum("btd,dk->bt", x, p["w"])[..., None] + jnp.einsum("btd,dnh->btn", x, p["v"]).sum(-1, keepdims=True),
        {"w": (4, 5), "v": (4, 2, 3)},
        {"w": "io", "v": "ioo"},
    ),
    "summed, then scanned over": Case(
        lambda p, x: lax.scan(lambda x, w: (x + (x @ w.sum(1))[..., None], None), x, p["w"])[0], {"w": (3, 4, 5)}, {"w": "sio"}
    ),
    "reshaped heads": Case(lambda p, x: jnp.einsum("btd,dnh->btnh", x, p["w"].reshape(4, 2, 3)), {"w": (4, 6)}, {"w": "io"}),
    "scan": Case(scanned(0), {"w": (3, 4, 4)}, {"w": "sio"}),
    "scan over axis 1": Case(scanned(1), {"w": (4, 3, 4)}, {"w": "iso"}),
    "scan over the last axis": Case(scanned(2), {"w": (4, 4, 3)}, {"w": "ios"}),
    "scan of remat": Case(scanned(0, prevent_cse=False), {"w": (3, 4, 4)}, {"w": "sio"}),
    "scan of remat with a policy": Case(
        scanned(1, prevent_cse=False, policy=jax.checkpoint_policies.dots_saveable), {"w": (4, 3, 4)}, {"w": "iso"}
    ),
    "jit inside": Case(lambda p, x: jax.jit(lambda w, x: x @ w)(p["w"], x), {"w": (4, 5)}, {"w": "io"}),
    "vmap inside": Case(
        lambda p, x: jax.vmap(lambda x: x @ p["w"] + p["table"][jnp.array([0, 1, 1, 0, 1, 2, 0])] @ p["w"])(x),
        {"w": (4, 5), "table": (3, 4)},
        {"w": "io", "table": "io"},
    ),
    "lstm": Case(lstm, dict.fromkeys("ifgo", (4, 3)), dict.fromkeys("ifgo", "io")),
    "padded": Case(lambda p, x: x @ jnp.pad(p["w"], ((1, 0), (0, 2))), {"w": (3, 5)}, {"w": "io"}),
    "reversed and strided": Case(lambda p, x: x @ p["w"][::-1, ::2], {"w": (4, 6)}, {"w": "io"}),
    "tied table": Case(tied, {"table": (7, 4), "w": (4, 4)}, {"table": "io", "w": "io"}, IDS),
    "lookups in a batch": Case(many_tables, {"tables": (2, 6, 4), "stacks": (5, 2, 4, 3)}, {"tables": "sio", "stacks": "ssio"}, IDS),
    "table of matrices": Case(
        lambda p, x: jnp.tanh((2 * p["table"][IDS]) + x[:, :, None])[:, :, 0] @ p["w"],
        {"table": (7, 2, 4), "w": (4, 4)},
        {"table": "ioo", "w": "io"},
        (2, 3, 4),
    ),
    "table of matrices, of which one is used at once": Case(
        lambda p, x: jnp.tanh(p["table"][IDS][:, :, 1] @ p["w"]) + p["table"][IDS].sum(2),
        {"table": (7, 2, 4), "w": (4, 4)},
        {"table": "iso", "w": "io"},
        (2, 3, 4),
    ),
    "experts": Case(experts, {"up": (3, 4, 5), "down": (3, 5, 4)}, {"up": "sio", "down": "sio"}, (3, 2, 4)),
    "chosen expert": Case(chosen_expert, {"w": (2, 4, 5)}, {"w": "sio"}, (3, 4)),
    "ragged": Case(ragged, {"up": (3, 4, 5), "down": (3, 5, 4)}, {"up": "sio", "down": "sio"}, (6, 4)),
    "convolution": Case(convolved(window_strides=(1, 1), padding="SAME"), {"w": (3, 3, 4, 6)}, {"w": "iiio"}, (2, 5, 5, 4)),
    "convolution, strided and dilated": Case(
        convolved(window_strides=(2, 1), padding="VALID", rhs_dilation=(1, 2)), {"w": (2, 2, 4, 6)}, {"w": "iiio"}, (2, 6, 6, 4)
    ),
    "convolution in groups": Case(
        convolved(2, window_strides=(1, 1), padding="SAME"), {"w": (3, 3, 2, 6)}, {"w": "iiio"}, (2, 5, 5, 4)
    ),
    "convolution, transposed": Case(
        lambda p, x: lax.conv_transpose(x, p["w"], (2, 2), "SAME"), {"w": (3, 3, 4, 6)}, {"w": "iiio"}, (2, 4, 4, 4)
    ),
    "custom derivative": Case(lambda p, x: straight(x, p["w"]) @ p["v"], {"w": (4, 5), "v": (5, 3)}, {"w": "io", "v": "io"}),
    "carried": Case(carried, dict.fromkeys(("w", "loop", "yes", "no"), (4, 4)), dict.fromkeys(("w", "loop", "yes", "no"), "io")),
    "handed on": Case(handed_on, {"w": (3, 4, 4)}, {"w": "sio"}),
    "shard_map": Case(sharded, {"w": (4, 5)}, {"w": "io"}),
    "indexed stack": Case(indexed, {"w": (3, 4, 4)}, {"w": "sio"}),
    "a list of dicts": Case(
        lambda p, x: functools.reduce(lambda x, layer: jnp.tanh(x @ layer["w"]), p, x), [{"w": (4, 4)}, {"w": (4, 5)}], {"0/w": "io", "1/w": "io"}
    ),
    "weight norm": Case(weight_norm, {"w": (4, 5), "plain": (4, 5)}, {"plain": "io"}),
}  # fmt: skip
FORMED = {"weight norm": ["w"]}  # what no product reads as it is
