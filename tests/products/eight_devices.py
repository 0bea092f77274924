"""Functions under `shard_map` on eight simulated devices, in a process of their own: prints facts as JSON, for test_shards.py to judge.

Letters: B batch, D features, F hidden features, E experts.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import lora_jax
from lora_jax import LoRAConfig
from lora_jax.products.find import find
from lora_jax.products.function import adapt, lora
from lora_jax.tree import flat, nested

MESH = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
LINE = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
RANDOM = np.random.default_rng(0)
P = jax.P


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape) / 2, jnp.float32)


def megatron(mesh=MESH, **how):
    """Cut by outputs, then by inputs, and a sum over the devices; rows of the batch over the others."""
    rows = P("data" if "data" in mesh.axis_names and "axis_names" not in how else None)

    def fn(params, x):
        def local(up, down, x):
            return lax.psum(jnp.tanh(x @ up) @ down, "model")

        specs = (P(None, "model"), P("model", None), rows)
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=rows, **how)(params["up"], params["down"], x)

    return fn


def gathered(params, x):
    """Weights that lie in pieces and are gathered before the product, as FSDP has it: no product reads them as they are."""

    def local(up, down, x):
        up, down = (lax.all_gather(w, "data", tiled=True) for w in (up, down))
        return jnp.tanh(x @ up) @ down

    specs = (P("data"), P("data"), P("data"))
    run = jax.shard_map(local, mesh=MESH, in_specs=specs, out_specs=P("data"), check_vma=False)
    return run(params["up"], params["down"], x)


def experts(params, x):
    """Each device has experts of its own, one at "model" 4; a kernel that closes over, too."""

    def local(w, x, shared):
        return lax.psum(jnp.einsum("bd,edf->bf", x, w), "model") @ shared

    run = jax.shard_map(local, mesh=MESH, in_specs=(P("model"), P("data"), P()), out_specs=P("data"))
    return run(params["experts"], x, params["shared"])


def heads(params, x):
    """One head a device."""

    def local(q, out, x):
        return lax.psum(jnp.einsum("bnh,nhd->bd", jnp.tanh(jnp.einsum("bd,ndh->bnh", x, q)), out), "model")

    run = jax.shard_map(local, mesh=LINE, in_specs=(P("model"), P("model"), P()), out_specs=P())
    return run(params["q"], params["out"], x)


def scanned(params, x):
    """A stack, each layer cut by outputs."""

    def local(ws, x):
        def layer(x, w):
            return lax.all_gather(jnp.tanh(x @ w), "model", axis=1, tiled=True), None

        return lax.scan(layer, x, ws)[0]

    return jax.shard_map(local, mesh=LINE, in_specs=(P(None, None, "model"), P()), out_specs=P(), check_vma=False)(
        params["w"], x
    )


PAIR = {"up": draw(8, 16), "down": draw(16, 8)}
CASES = {
    "megatron": (megatron(), PAIR),
    "megatron, unchecked": (megatron(check_vma=False), PAIR),
    "megatron, the batch left to the compiler": (megatron(axis_names={"model"}), PAIR),
    "eight pieces": (megatron(LINE), PAIR),
    "heads": (heads, {"q": draw(8, 8, 3), "out": draw(8, 3, 8)}),
    "experts": (experts, {"experts": draw(4, 8, 6), "shared": draw(6, 5)}),
    "scanned": (scanned, {"w": draw(3, 16, 16)}),
}
ADAPTERS = {"plain": {}, "DoRA": {"dora": True}}


def moved(params):
    leaves = flat(params)
    trained = [path for path in leaves if path.rpartition("/")[2] in ("lora_a", "lora_b", "lora_magnitude")]
    return nested(leaves | {path: leaves[path] + 0.3 * draw(*leaves[path].shape) for path in trained})


def apart(got, expected) -> float:
    """The largest difference over the largest entry, of all leaves the worst."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / (np.abs(np.asarray(b)).max() + 1e-9)) for a, b in pairs
    )


def facts(fn, base, fields) -> dict:
    x, formed = draw(8, 16 if "w" in base else 8), []
    params = moved(adapt(jax.random.key(0), base, fn, LoRAConfig(rank=2, alpha=3, targets="*", **fields), x))
    frozen, own = lora_jax.partition(params, lora_jax.trainable_mask(params))

    def run(way):
        loss = lambda own: (jnp.sum(jnp.sin(y := way(lora_jax.combine(frozen, own)))), y)  # noqa: E731
        return jax.jit(jax.grad(loss, has_aux=True))(own)

    gradients, got = run(lambda params: lora(fn, dense_uses=formed)(params, x))
    wanted, expected = run(lambda params: fn(lora_jax.merge(params), x))
    return {
        "roles": {path: site.roles for path, site in find(fn, base, x).items()},
        "apart": apart(got, expected),
        "gradients": apart(gradients, wanted),
        "moved": apart(fn(base, x), expected),
        "formed": sorted({use.path for use in formed}),
    }


def main() -> None:
    found = {
        f"{name}, {kind}": facts(fn, base, fields) for name, (fn, base) in CASES.items() for kind, fields in ADAPTERS.items()
    }  # fmt: skip
    dense = {path: str(site.dense[0]) for path, site in find(gathered, PAIR, draw(8, 8)).items()}
    print(json.dumps({"devices": jax.device_count(), "gathered": dense, **found}))


if __name__ == "__main__":
    main()
