"""LoRA as other Flax libraries have it: qwix around a linen model, `flax.nnx.LoRALinear` in an NNX one; the same model, step and optimiser.

The model is four residual blocks of two layers, 192 -> 512 -> 192, on [B, T, 192], r = 8 on every layer.
"""

import importlib.util
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import lora_jax
import lora_jax.nnx
from experiments.benchmarks import setting, steps
from lora_jax.tree import flat, nested

BATCH, TOKENS, WIDTH, HIDDEN, BLOCKS, RANK, RATE = 8, 128, 192, 512, 4, 8, 1e-3
EXAMPLES = 64


class Blocks(nn.Module):
    """In linen."""

    @nn.compact
    def __call__(self, x):
        for i in range(BLOCKS):
            y = nn.tanh(nn.Dense(HIDDEN, name=f"up_{i}")(x))
            x = x + nn.Dense(WIDTH, name=f"down_{i}")(y)
        return x


class NNXBlocks(nnx.Module):
    """In NNX, of nnx.Linear or nnx.LoRALinear."""

    def __init__(self, linear, rngs: nnx.Rngs):
        self.up = nnx.List([linear(WIDTH, HIDDEN, rngs=rngs) for _ in range(BLOCKS)])
        self.down = nnx.List([linear(HIDDEN, WIDTH, rngs=rngs) for _ in range(BLOCKS)])

    def __call__(self, x):
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(nnx.tanh(up(x)))
        return x


def compared(count: int, rounds: int) -> dict[str, Any]:
    """As `steps.lora_against_full`, ours against each; a library that is not installed is left out."""
    rivals = {"lora_jax, linen": _ours(), "lora_jax, NNX": _ours_nnx(), "flax.nnx.LoRALinear": _nnx_lora()}
    if importlib.util.find_spec("qwix"):
        rivals["qwix, linen"] = _qwix()
    rows, rate = steps.measured(rivals, count, rounds)
    pairs = (("flax.nnx.LoRALinear", "lora_jax, NNX"), ("qwix, linen", "lora_jax, linen"))
    ratio = {
        f"{key}, {peer} / {ours}": rows[peer][key] / rows[ours][key]
        for peer, ours in pairs
        if peer in rows
        for key in ("median_ms", "flops", "temporary_bytes")
    }
    return {"rows": rows, "ratio": ratio, "matmul_gflops": rate.flops / 1e9}


def _example() -> jax.Array:
    return jnp.ones((1, TOKENS, WIDTH))


def _data() -> dict[str, jax.Array]:
    one, other = (jax.random.normal(jax.random.key(i), (EXAMPLES, TOKENS, WIDTH)) for i in (0, 1))
    return {"x": one, "y": other}


def _rival(apply, params: dict, is_adapter) -> setting.Rival:
    """`apply(params, x)`; what trains is told by the names of leaves."""

    def loss_fn(params, batch, key):
        return jnp.mean((apply(params, batch["x"]) - batch["y"]) ** 2), {}

    mask = nested({path: is_adapter(path) for path in flat(params)})
    return setting.rival(loss_fn, optax.adam(RATE), params, mask, _data(), BATCH)


def _is_ours(path: str) -> bool:
    return path.endswith(("lora_a", "lora_b"))


def _config() -> lora_jax.LoRAConfig:
    return lora_jax.LoRAConfig(rank=RANK, alpha=RANK)


def _ours() -> setting.Rival:
    model = lora_jax.LoRA(Blocks(), _config())
    params = model.init(jax.random.key(3), _example())["params"]
    return _rival(lambda params, x: model.apply({"params": params}, x), params, _is_ours)


def _ours_nnx() -> setting.Rival:
    model = lora_jax.nnx.LoRA(NNXBlocks(nnx.Linear, nnx.Rngs(3)), _config())
    params = model.init(jax.random.key(3))["params"]
    return _rival(lambda params, x: model.apply({"params": params}, x), params, _is_ours)


def _nnx_lora() -> setting.Rival:
    def linear(*sizes, rngs):
        return nnx.LoRALinear(*sizes, lora_rank=RANK, rngs=rngs)

    graph, state = nnx.split(NNXBlocks(linear, nnx.Rngs(3)))
    paths = {"/".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    params = nested({path: leaf[...] for path, (_, leaf) in paths.items()})

    def apply(params, x):
        leaves = [(paths[path][0], paths[path][1].replace(leaf)) for path, leaf in flat(params).items()]
        return nnx.merge(graph, nnx.from_flat_state(leaves))(x)

    return _rival(apply, params, _is_ours)


def _qwix() -> setting.Rival:
    import qwix

    model = qwix.apply_lora_to_model(Blocks(), qwix.LoraProvider(module_path=".*", rank=RANK, alpha=float(RANK)))
    params = model.init(jax.random.key(3), _example())["params"]
    return _rival(lambda params, x: model.apply({"params": params}, x), params, _is_ours)
