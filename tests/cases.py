"""A table of small models x configs, and the independent route that answers for them.

A test file asks one question of every row. The route: `W + scale * a @ b` in plain numpy, reshaped onto the kernel,
and then the *base module* with that kernel. No code of `lora_jax` is in it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from lora_jax import LoRA, LoRAConfig


class Doubled(nn.Dense):
    """A subclass that does something around its layer."""

    def __call__(self, x):
        return 2 * super().__call__(x)


class Encoder(nn.Module):
    """Two layers of projections and a head, for patterns: layer_0/query, layer_0/value ... and head."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = x + Projections(name=f"layer_{i}")(x)
        return nn.Dense(3, name="head")(x)


class Projections(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(4, name="query")(x)) * nn.Dense(4, name="value")(x)


class Attention(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=2, dtype=self.dtype, name="attention")(x)


class Block(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x, _):
        y = nn.tanh(nn.Dense(6, dtype=self.dtype, name="up")(nn.LayerNorm(dtype=self.dtype)(x)))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(y), None


class TiedNet(nn.Module):
    """Tokens -> embedding -> 3 stacked blocks under nn.remat and nn.scan -> logits through the same embedding."""

    dtype: Any

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(7, 4, dtype=self.dtype, name="embed")
        stack = nn.scan(
            nn.remat(Block, prevent_cse=False), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = stack(self.dtype, name="blocks")(embed(ids), None)
        return embed.attend(x)


class Remat(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.Dense)(5, dtype=self.dtype, name="first")(x)
        return nn.remat(nn.Dense)(3, dtype=self.dtype, name="second")(nn.tanh(x))


class SharedLayer(nn.Module):
    """One Dense that is called twice: one adapter, two side paths."""

    dtype: Any

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4, dtype=self.dtype, name="shared")
        return layer(nn.tanh(layer(x)))


class EinsumByKeyword(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return nn.Einsum((4, 5), use_bias=False, dtype=self.dtype)(einsum_str="btd,dk->btk", inputs=x)


def _einsum(equation: str, kernel_shape: tuple[int, ...], use_bias: bool = False) -> Callable:
    return lambda dtype: nn.Einsum(kernel_shape, equation, use_bias=use_bias, dtype=dtype)


def _conv(features: int, window: tuple[int, ...], **kwargs) -> Callable:
    return lambda dtype: nn.Conv(features, window, dtype=dtype, **kwargs)


def _general(features, **kwargs) -> Callable:
    return lambda dtype: nn.DenseGeneral(features, dtype=dtype, **kwargs)


class Case(NamedTuple):
    """`build(dtype)` makes the base module; x has `shape`, and is token ids where `vocab` is positive."""

    name: str
    build: Callable[[Any], nn.Module]
    shape: tuple[int, ...]
    vocab: int = 0
    config: LoRAConfig = LoRAConfig(rank=2, alpha=3, targets="*")

    def variant(self, **fields) -> "Case":
        """The same model under another kind of adapter."""
        kind = ",".join(f"{name}={value}" for name, value in fields.items())
        return self._replace(name=f"{self.name}-{kind}", config=dataclasses.replace(self.config, **fields))

    def model(self, dtype=jnp.float32) -> LoRA:
        return LoRA(self.build(dtype), self.config)

    def x(self, lead: tuple[int, ...] = ()) -> jax.Array:
        random, shape = np.random.default_rng(1), (*lead, *self.shape)
        if self.vocab:
            return jnp.asarray(random.integers(self.vocab, size=shape), jnp.int32)
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    @functools.cache  # noqa: B019 (a table of a few dozen cases)
    def params(self) -> dict:
        """Adapted parameters of which none is trivial. Drawn by numpy: compiling Flax's initialisers takes seconds."""
        shapes = jax.eval_shape(self.model().init, jax.random.key(0), self.x())["params"]
        random = np.random.default_rng(2)
        filled = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype), shapes)
        return randomised(filled, seed=3)

    @functools.cache  # noqa: B019
    def apply(self) -> Callable:
        """The adapted model, jitted: (params, x) -> y."""
        return jax.jit(lambda params, x: self.model().apply({"params": params}, x))

    @functools.cache  # noqa: B019
    def base_apply(self) -> Callable:
        """The base module, jitted: (base params, x) -> y."""
        return jax.jit(lambda params, x: self.build(jnp.float32).apply({"params": params}, x))


CASES = [
    Case("dense", lambda dtype: nn.Dense(5, dtype=dtype), (2, 3, 4)),
    Case("dense_unbatched", lambda dtype: nn.Dense(5, use_bias=False, dtype=dtype), (4,)),
    Case("dense_subclass", lambda dtype: Doubled(5, dtype=dtype), (2, 4)),
    Case("general_features", _general((2, 5)), (2, 3, 4)),
    Case("general_axes", _general((2, 5), axis=(-2, -1)), (2, 3, 4)),
    Case("general_axes_unsorted", _general(5, axis=(-1, -2)), (2, 4, 4)),
    Case("general_middle_axis", _general(5, axis=1), (2, 3, 4)),
    Case("general_batch_dims", _general(5, axis=-1, batch_dims=(0,)), (2, 3, 4)),
    Case("general_two_batch_dims", _general((2, 3), axis=(-1,), batch_dims=(0, 1)), (2, 3, 4, 5)),
    Case("attention", Attention, (2, 3, 4)),
    Case("einsum_plain", _einsum("btd,dhk->bthk", (4, 2, 3)), (2, 3, 4)),
    Case("einsum_permuted", _einsum("btd,dhk->bhtk", (4, 2, 3)), (2, 3, 4)),
    Case("einsum_permuted_with_bias", _einsum("btd,dhk->bhtk", (4, 2, 3), use_bias=True), (2, 3, 4)),
    Case("einsum_batch_labels_with_bias", _einsum("bhtd,hdk->bhtk", (2, 4, 3), use_bias=True), (2, 2, 3, 4)),
    Case("einsum_transposed", _einsum("bthk,dhk->btd", (5, 2, 4)), (2, 3, 2, 4)),
    Case("einsum_mixed", _einsum("btd,hdk->bthk", (2, 4, 3)), (2, 3, 4)),
    Case("einsum_batch_labels", _einsum("bhtd,hdk->bhtk", (2, 4, 3)), (2, 2, 3, 4)),
    Case("einsum_ellipsis", _einsum("...d,dk->...k", (4, 3)), (2, 3, 4)),
    Case("einsum_sums_a_batch_label", _einsum("btd,dk->bk", (4, 3)), (2, 3, 4)),
    Case("einsum_sums_a_feature", _einsum("btd,dk->bt", (4, 3)), (2, 3, 4)),
    Case("einsum_diagonal", _einsum("bdd,dk->bk", (4, 3)), (2, 4, 4)),
    Case("einsum_by_keyword", EinsumByKeyword, (2, 3, 4)),
    Case("conv_1d", _conv(5, (3,)), (2, 8, 3)),
    Case("conv_1d_circular", _conv(5, (3,), padding="CIRCULAR"), (2, 8, 3)),
    Case("conv_1d_causal", _conv(5, (3,), padding="CAUSAL"), (2, 8, 3)),
    Case("conv_1d_dilated", _conv(5, (3,), kernel_dilation=2), (2, 8, 3)),
    Case("conv_1d_input_dilated", _conv(5, (3,), input_dilation=2, padding=1), (2, 8, 3)),
    Case("conv_unbatched", _conv(5, (3,)), (8, 3)),
    Case("conv_2d_valid_strided", _conv(5, (3, 2), strides=2, padding="VALID"), (2, 7, 6, 3)),
    Case("conv_2d_groups", _conv(6, (3, 3), feature_group_count=2), (2, 5, 5, 4)),
    Case("conv_2d_depthwise", _conv(8, (2, 2), feature_group_count=4, padding="VALID"), (2, 4, 4, 4)),
    Case("embed", lambda dtype: nn.Embed(7, 4, dtype=dtype), (2, 3), vocab=7),
    Case("remat", Remat, (2, 4)),
    Case("shared_layer", SharedLayer, (2, 4)),
    Case("tied_scan_remat", TiedNet, (2, 3), vocab=7),
    Case("rnn", lambda dtype: nn.RNN(nn.GRUCell(4, dtype=dtype)), (2, 3, 4)),
]

_SEVERAL = ("dense", "attention", "einsum_transposed", "conv_2d_groups", "embed", "tied_scan_remat")
DORA = [case.variant(dora=True) for case in CASES]
STARTS = [
    case.variant(**fields)
    for case in CASES
    if case.name in _SEVERAL
    for fields in ({"init": "pissa"}, {"init": "olora"}, {"init": "orthogonal"}, {"init": "pissa", "dora": True})
]
SOME = [case for case in DORA if case.name.partition("-")[0] in _SEVERAL] + STARTS

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_variant = pytest.mark.parametrize("case", DORA + STARTS, ids=lambda case: case.name)
several_variants = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def flat(tree) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def randomised(params, seed: int) -> dict:
    """`params` with random factors, magnitudes that are not the norms, and a scale that is neither 0 nor 1, another one in every layer."""
    leaves, random = flat(params), np.random.default_rng(seed)
    for path, leaf in sorted(leaves.items()):
        if path.endswith(("lora_a", "lora_b", "lora_start_a", "lora_start_b")):
            leaves[path] = jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
        elif path.endswith(("lora_scale", "lora_magnitude")):
            leaves[path] = jnp.asarray(random.uniform(0.3, 0.8, size=leaf.shape), leaf.dtype)
        elif path.endswith("lora_norm"):
            leaves[path] = jnp.asarray(
                _norm(leaves[_kernel(leaves, path.removesuffix("lora_norm"))[0]], leaf, np), leaf.dtype
            )
    return unflatten_dict(leaves, sep="/")


def dense_base(params, xp=np) -> dict:
    """The base tree with kernels `W + scale * a @ b`, or DoRA's; with `xp=jnp` it can be differentiated."""
    leaves = flat(params)
    base = {path: leaf for path, leaf in leaves.items() if not path.rpartition("/")[2].startswith("lora_")}
    for module in [path.removesuffix("lora_a") for path in leaves if path.endswith("lora_a")]:
        name, roles = _kernel(leaves, module)
        base[name] = _dense_kernel(
            leaves[name], {k: leaves[module + k] for k in OWN if module + k in leaves}, xp, roles
        )
    return unflatten_dict(base, sep="/")


OWN = ("lora_a", "lora_b", "lora_scale", "lora_start_a", "lora_start_b", "lora_magnitude")


def _kernel(leaves, module: str) -> tuple[str, str | None]:
    """(path of the kernel, the roles of its axes where the name of the adapter's place tells them)."""
    name, _, roles = module.rstrip("/").rpartition(":")
    if name in leaves:
        return name, roles
    return module + ("kernel" if module + "kernel" in leaves else "embedding"), None


def _along(product, shape, roles, xp):
    """[*S, D, K] as the kernel's axes lie."""
    order = [axis for role in "sio" for axis, own in enumerate(roles) if own == role]
    return xp.transpose(product.reshape([shape[axis] for axis in order]), np.argsort(order))


def _dense_kernel(kernel, own, xp, roles=None):
    product = xp.einsum("...dr,...rk->...dk", xp.asarray(own["lora_a"]), xp.asarray(own["lora_b"]))
    if "lora_start_a" in own:
        product = product - xp.einsum("...dr,...rk->...dk", own["lora_start_a"], own["lora_start_b"])
    scale = xp.asarray(own["lora_scale"])
    if roles is not None:
        value = xp.asarray(kernel) + _along(scale[..., None, None] * product, kernel.shape, roles, xp)
    else:
        product = product.reshape(*kernel.shape)
        value = xp.asarray(kernel) + scale.reshape(*scale.shape, *[1] * (product.ndim - scale.ndim)) * product
    if "lora_magnitude" not in own:
        return value
    return own["lora_magnitude"] * value / _norm(value, own["lora_magnitude"], xp)


def _norm(value, like, xp):
    """Over the axes where `like` has 1; a constant in gradients."""
    value = jax.lax.stop_gradient(value) if xp is jnp else np.asarray(value)
    axes = tuple(i for i, size in enumerate(like.shape) if size == 1)
    return xp.sqrt(xp.sum(value**2, axis=axes, keepdims=True))


def assert_trees_close(got, expected, tolerance: float = 1e-5) -> None:
    """Every leaf within `tolerance` of its largest entry (or of a tenth of the tree's, where sums cancel)."""
    got, expected = jax.tree_util.tree_leaves_with_path(got), jax.tree_util.tree_leaves_with_path(expected)
    assert [path for path, _ in got] == [path for path, _ in expected]
    floor = max(_largest(wanted) for _, wanted in expected) / 10
    for (path, value), (_, wanted) in zip(got, expected, strict=True):
        assert np.shape(value) == np.shape(wanted), path
        difference = np.asarray(value, np.float64) - np.asarray(wanted, np.float64)
        error = _largest(difference) / max(_largest(wanted), floor)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)} is off by {error:.2e} of its largest entry"


def _largest(leaf) -> float:
    return float(np.max(np.abs(np.asarray(leaf, np.float64)), initial=1e-30))


def equations(jaxpr):
    """Every equation of a jaxpr and of the jaxprs inside it, outer ones first."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            dict(equation.params), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
