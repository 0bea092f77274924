"""How the cost of a step grows: with members, rank, width, length and devices."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.benchmarks import floor, lm_setting, setting, steps, sweeps, timing
from experiments.common import draws
from experiments.common.classification import cross_entropy
from lora_jax import mesh, sweep
from lora_jax.models.mlp import MLP

MEMBERS, RANKS, WIDTHS, LENGTHS = (1, 4, 16, 64), (1, 4, 16, 64, 256), (128, 512, 2048), (32, 64, 128, 256)
DEVICES, DEVICE_MEMBERS = (1, 2, 4, 8), 8
TOKENS = 4096  # of a batch, whatever the length of its rows
REPOSITORY = pathlib.Path(__file__).parents[2]


def members(count: int, rounds: int) -> dict[str, Any]:
    """MLP, r = 16: members in one program; per member step."""
    return _per_step({f"{m} members": (_sweep(m, count), m * count) for m in MEMBERS}, rounds)


def _per_step(ways: dict[str, tuple[sweeps.Way, int]], rounds: int) -> dict[str, Any]:
    """Of each way and its member steps."""
    times, rate = floor.alternate({name: way.work for name, (way, _) in ways.items()}, rounds)
    rows = {
        name: floor.against(timing.summarise(times[name], per=per), way.operations() / per, rate)
        for name, (way, per) in ways.items()
    }
    return {"rows": rows, "ratio": _relative(rows)}


def _sweep(count: int, steps_: int, on=None) -> sweeps.Way:
    chosen = sweep.grid(ranks=(setting.RANK,), learning_rates=(setting.RATE,), seeds=range(count))
    model = setting.wrapped()
    trainer = sweep.Sweep(cross_entropy(model), optax.adam, mesh=on)
    order = setting.order((steps_, setting.BATCH), setting.EXAMPLES)
    stacked = sweep.init_adapters(model, chosen, jnp.ones((1, 784)))
    return sweeps.training_of(trainer, chosen, stacked, shared=setting.base(), data=setting.data(), order=order)


def ranks(count: int, rounds: int) -> dict[str, Any]:
    """MLP: LoRA at growing rank, and full fine-tuning beside it."""
    rivals = {f"LoRA, r = {rank}": setting.lora(rank) for rank in RANKS} | {"full": setting.full()}
    return _measured(rivals, count, rounds)


def widths(count: int, rounds: int) -> dict[str, Any]:
    """Two hidden layers of growing width, r = 16: LoRA and full fine-tuning."""
    rivals = {}
    for width in WIDTHS:
        model = MLP((width, width))
        params = model.init(jax.random.key(3), jnp.ones((1, 784)))["params"]
        adapted = lora_jax.LoRA(model, lora_jax.LoRAConfig(rank=setting.RANK))
        with_adapter = lora_jax.adapt(jax.random.key(4), params, adapted, jnp.ones((1, 784)))
        for name, of, tree, train in (("LoRA", adapted, with_adapter, ()), ("full", model, params, "*")):
            mask = lora_jax.trainable_mask(tree, train=train)
            rivals[f"{name}, width {width}"] = setting.rival(
                cross_entropy(of), optax.adam(setting.RATE), tree, mask, setting.data(), setting.BATCH
            )
    rows, rate = steps.measured(rivals, count, rounds)
    ratio = {
        f"LoRA / full, width {width}": rows[f"LoRA, width {width}"]["median_ms"]
        / rows[f"full, width {width}"]["median_ms"]
        for width in WIDTHS
    }
    return {"rows": rows, "ratio": ratio, "matmul_gflops": rate.flops / 1e9}


def lengths(count: int, rounds: int) -> dict[str, Any]:
    """3 M language model, LoRA: rows of growing length in batches of as many tokens."""
    batches = {length: TOKENS // length for length in LENGTHS}
    rivals = {
        f"{length} tokens a row": lm_setting.lora(lm_setting.full_rows(length, rows=2 * batch), batch)
        for length, batch in batches.items()
    }
    return _measured(rivals, count, rounds)


def devices(count: int, rounds: int) -> dict[str, Any]:
    """MLP, r = 16, 8 members over 1 to 8 devices; on a CPU these are simulated, in a process of their own."""
    if jax.default_backend() != "cpu":
        return over_devices(count, rounds)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(max(DEVICES)), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.benchmarks.growth", str(count), str(rounds)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def over_devices(count: int, rounds: int) -> dict[str, Any]:
    """Of as many devices as there are."""
    here = [n for n in DEVICES if n <= jax.device_count()]
    ways = {
        f"{n} devices": _sweep(DEVICE_MEMBERS, count, mesh.make(members=n, devices=jax.devices()[:n])) for n in here
    }
    whole = ways["1 devices"].operations  # of the others' programs only one device's share would be counted
    per = DEVICE_MEMBERS * count
    found = _per_step({name: (way._replace(operations=whole), per) for name, way in ways.items()}, rounds)
    return {**found, "cores": os.cpu_count()}


def _measured(rivals: dict[str, setting.Rival], count: int, rounds: int) -> dict[str, Any]:
    rows, rate = steps.measured(rivals, count, rounds)
    return {"rows": rows, "ratio": _relative(rows), "matmul_gflops": rate.flops / 1e9}


def _relative(rows: dict[str, Any]) -> dict[str, float]:
    """Each row's time over the first one's."""
    (first, start), *others = rows.items()
    return {f"{name} / {first}": row["median_ms"] / start["median_ms"] for name, row in others}


if __name__ == "__main__":
    draws.fuse_on_cpu()  # as every entry does
    print(json.dumps(over_devices(*map(int, sys.argv[1:]))))
