"""What eight simulated devices do, in a process of their own: prints facts as JSON, for tests/test_mesh.py to judge."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from lora_jax import checkpoint, mesh, sweep, training
from lora_jax.mesh import DATA, MODEL
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.models.mlp import MLP
from lora_jax.tree import flat

COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", re.MULTILINE
)
SIZE = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "bf16": 2}


def collectives(compiled) -> list[tuple[str, list[tuple[str, list[int]]]]]:
    """[(kind, [(dtype, shape of a result), ...]), ...]"""
    return [
        (
            kind,
            [
                (dtype, [int(n) for n in dims.split(",") if n])
                for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
            ],
        )
        for shapes, kind in COLLECTIVE.findall(compiled.as_text())
    ]


def moved(found) -> int:
    """Bytes of all results."""
    return sum(SIZE[dtype] * math.prod(shape) for _, results in found for dtype, shape in results)


def apart(got, expected) -> float:
    """The largest difference."""
    pairs = zip(jax.tree.leaves(mesh.fetch(got)), jax.tree.leaves(mesh.fetch(expected)), strict=True)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs)


def on_first_device(tree) -> int:
    """Bytes that device 0 holds."""
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )


MODEL_ = lora_jax.LoRA(MLP((64, 16), classes=8), lora_jax.LoRAConfig(rank=2, targets="*"))
RANDOM = np.random.default_rng(0)
DATA_ = {
    "x": jnp.asarray(RANDOM.normal(size=(64, 24)), jnp.float32),
    "y": jnp.asarray(RANDOM.integers(8, size=64), jnp.int32),
}
BASE = MODEL_.base_module.init(jax.random.key(0), DATA_["x"])["params"]
ORDER = jnp.asarray(RANDOM.integers(64, size=(5, 16)), jnp.int32)


def loss_fn(params, batch, key):
    logits = MODEL_.apply({"params": params}, batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}


def adam(learning_rate):
    """Adam whose step is no sign of a gradient that is rounding alone."""
    return optax.adam(learning_rate, eps=1e-2)


def members(on, strategy: str = "vmap", count: int = 30) -> tuple[dict, dict]:
    """(facts, what came of a sweep) on a mesh; of 30 members, as a sweep of 6 ranks x 5 seeds has."""
    chosen = sweep.grid(ranks=(1, 2, 3, 4, 5, 6), learning_rates=(1e-2,), seeds=range(count // 6))
    trainer = sweep.Sweep(loss_fn, adam, strategy, on)
    stacked = sweep.init_adapters(MODEL_, chosen, DATA_["x"])
    state = trainer.start(
        stacked,
        lora_jax.trainable_mask(stacked),
        learning_rates=[m.learning_rate for m in chosen],
        seeds=[m.seed for m in chosen],
    )
    together = len(state.learning_rate.devices())
    state = trainer.filled(state)
    base = BASE if on is None else mesh.place(BASE, on)
    data, order = trainer.share(DATA_, state), trainer.share(ORDER, state)
    found = collectives(trainer.run.lower(state, base, data, order).compile())
    held, whole = on_first_device(state), sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    for _ in range(2):
        state, (losses, _) = trainer.run(state, base, data, order)
    right = trainer.evaluation(
        lambda params, batch: {"hit": MODEL_.apply({"params": params}, batch["x"]).argmax(-1) == batch["y"]}, 10
    )
    facts = {
        "devices of 30": together,
        "collectives": [kind for kind, _ in found],
        "moved": moved(found),
        "members": len(state.learning_rate),
        "share of the state": held / whole,
        "traces": len(trainer.traces),
        "programs": trainer.run._cache_size(),
    }
    outcome = {
        "losses": losses[:count],
        "trainable": sweep.first(state.train.trainable, count),
        "right": right(state, base, data)["hit"][:count],
    }
    return facts, outcome


def params():
    tree = lora_jax.adapt(jax.random.key(1), BASE, MODEL_, DATA_["x"])
    return {**tree, "hidden_0": {**tree["hidden_0"], "lora_b": jnp.full_like(tree["hidden_0"]["lora_b"], 0.1)}}


def steps(on) -> tuple[dict, dict]:
    """(facts, the trained state) of a train step, and of an epoch, on a mesh."""
    tree = mesh.place(params(), on)
    mask = lora_jax.trainable_mask(tree)
    frozen, trainable = lora_jax.partition(tree, mask)
    # eps: where a gradient is all but zero, Adam makes a step of its rounding
    tx = lora_jax.lora_optimizer(optax.adam(1e-2, eps=1e-2), mask)
    state = training.init_state(trainable, tx, jax.random.key(2), mesh=on)
    step, epoch = training.make_train_step(loss_fn, tx, mesh=on), training.make_epoch(loss_fn, tx, mesh=on)
    batch = mesh.put({name: leaf[:16] for name, leaf in DATA_.items()}, on, jax.P(DATA))
    found = collectives(step.lower(state, frozen, batch).compile())
    for _ in range(3):
        state, (loss, _) = step(state, frozen, batch)
    state, (losses, _) = epoch(state, frozen, mesh.put(DATA_, on), mesh.put(ORDER, on))
    kernels = sorted({tuple(leaf.shape) for path, leaf in flat(BASE).items() if path.endswith("kernel")})
    facts = {
        "collectives": found,
        "moved": moved(found),
        "trainable bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.trainable)),
        "base bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(BASE)),
        "share of the kernels": on_first_device({p: leaf for p, leaf in flat(frozen).items() if p.endswith("kernel")})
        / sum(leaf.nbytes for path, leaf in flat(frozen).items() if path.endswith("kernel")),
        "kernels": kernels,
        "factors": {path: str(tuple(leaf.sharding.spec)) for path, leaf in flat(state.trainable).items()},
        "moments lie as their factors": all(
            [m.sharding.is_equivalent_to(t.sharding, t.ndim)
             for m, t in zip(jax.tree.leaves(moments), jax.tree.leaves(state.trainable), strict=True)]
            for moments in (state.opt_state[0].mu, state.opt_state[0].nu)
        ) if hasattr(state.opt_state[0], "mu") else None,
    }  # fmt: skip
    return facts, {"trainable": state.trainable, "losses": losses, "loss": loss}


def llama(on) -> tuple[list, np.ndarray]:
    """(collectives, gradients) of a decoder whose base is cut over the model axis."""
    model = lora_jax.LoRA(
        CausalLM(CausalLMConfig(64, 32, 48, 3, 4, 2, 16)), lora_jax.LoRAConfig(rank=2, targets="*_proj")
    )
    ids = jnp.arange(32, dtype=jnp.int32).reshape(4, 8)
    tree = jax.jit(model.init)(jax.random.key(0), ids)["params"]
    tree = jax.tree.map(lambda leaf: leaf + 0.1, tree)
    frozen, trainable = lora_jax.partition(mesh.place(tree, on), lora_jax.trainable_mask(tree))
    grad = jax.jit(
        jax.grad(
            lambda t, frozen: jnp.mean(model.apply({"params": lora_jax.combine(frozen, t)}, mesh.put(ids, on)) ** 2)
        )
    )
    compiled = grad.lower(trainable, frozen).compile()
    return collectives(compiled), grad(trainable, frozen)


def saved(folder) -> float:
    """A state saved from eight devices and read onto one: the largest difference."""
    tree = {"w": mesh.put(jnp.arange(16.0).reshape(8, 2), mesh.make(model=8), jax.P(MODEL))}
    checkpoint.save_state(folder, tree, BASE, None, step=1)
    again = checkpoint.restore_state(folder, {"w": jnp.zeros((8, 2))}, BASE, None)
    fresh = mesh.put(jnp.zeros((8, 2)), mesh.make(model=8), jax.P(MODEL))
    spread = checkpoint.restore_state(folder, {"w": fresh}, BASE, None)
    assert spread["w"].sharding == fresh.sharding
    return max(apart(again, tree), apart(spread, tree))


def main() -> None:
    import tempfile

    one = mesh.make(devices=jax.devices()[:1])
    alone, (_, trained_alone) = members(one)[1], steps(one)
    facts: dict = {"devices": jax.device_count()}
    for name, sizes in {
        "members:8": {"members": 8},
        "members:2,data:4": {"members": 2, "data": 4},
        "members:2,model:4": {"members": 2, "model": 4},
    }.items():
        about, outcome = members(mesh.make(**sizes))
        facts[name] = about | {"apart": apart(outcome, alone)}
    about, outcome = members(None, "sequential")
    facts["members, sequential"] = about | {"apart": apart(outcome, alone)}
    for name, sizes in {
        "data:8": {"data": 8},
        "model:8": {"model": 8},
        "data:2,model:4": {"data": 2, "model": 4},
    }.items():
        about, outcome = steps(mesh.make(**sizes))
        facts[name] = about | {"apart": apart(outcome, trained_alone)}
    found, gradients = llama(mesh.make(model=2, data=4))
    facts["llama"] = {"collectives": found, "apart": apart(gradients, llama(one)[1])}
    with tempfile.TemporaryDirectory() as folder:
        facts["saved"] = saved(folder)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
