"""Members spread over devices: two CPU devices, in a process of their own, against the one device of this one."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import sweep
from lora_jax.models.mlp import MLP
from lora_jax.tree import flat

pytestmark = pytest.mark.usefixtures("quick_compile")
STRATEGIES = ("vmap", "sequential")


def train(members: int, strategy: str) -> dict:
    """A short sweep: losses, evaluation, where the state lies, and the collectives of the compiled program."""
    model = lora_jax.LoRA(MLP((8,), classes=3), lora_jax.LoRAConfig(rank=2))
    data = {
        "x": jax.random.normal(jax.random.key(1), (32, 5)),
        "y": jax.random.randint(jax.random.key(2), (32,), 0, 3),
    }
    base = model.base_module.init(jax.random.key(0), data["x"])["params"]
    chosen = [sweep.Member(1 + m % 2, None, 0.01 * (1 + m), m) for m in range(members)]

    def loss_fn(params, batch, key):
        logits = model.apply({"params": params}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    trainer = sweep.Sweep(loss_fn, optax.adam, strategy)
    stacked = sweep.init_adapters(model, chosen, data["x"])
    state = trainer.start(
        stacked,
        lora_jax.trainable_mask(stacked),
        learning_rates=[m.learning_rate for m in chosen],
        seeds=[m.seed for m in chosen],
    )
    order = jax.random.randint(jax.random.key(3), (members, 6, 8), 0, 32)
    program = trainer.run.lower(state, base, data, order).compile().as_text()
    for _ in range(2):
        state, (losses, _) = trainer.run(state, base, data, order)

    def right(params, batch):
        found = model.apply({"params": params}, batch["x"]).argmax(-1)
        return {"right": (found == batch["y"]).astype(jnp.int32)}

    evaluate = trainer.evaluation(right, 10)
    leaf = next(iter(flat(state.train.trainable).values()))
    return {
        "losses": losses.tolist(),
        "evaluation": evaluate(state, base, data)["right"].tolist(),
        "devices": len(leaf.devices()),
        "shard": leaf.addressable_shards[0].data.shape[0],
        "collectives": re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", program),
        "traces": len(trainer.traces),
    }


@pytest.fixture(scope="module")
def on_two_devices() -> dict:
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    program = (
        "import json; from tests.test_sweep_devices import *; "
        "print(json.dumps({s: {m: train(m, s) for m in (4, 3)} for s in STRATEGIES}))"
    )
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_members_on_two_devices_are_members_on_one(on_two_devices, strategy):
    spread, alone = on_two_devices[strategy]["4"], train(4, strategy)
    np.testing.assert_allclose(spread["losses"], alone["losses"], atol=1e-6)
    assert spread["evaluation"] == alone["evaluation"]
    assert (spread["devices"], spread["shard"], alone["devices"]) == (2, 2, 1)
    assert spread["traces"] == 1  # lowered by hand, and run twice


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_devices_do_not_talk_while_members_train(on_two_devices, strategy):
    assert on_two_devices[strategy]["4"]["collectives"] == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_members_that_do_not_divide_evenly_stay_together(on_two_devices, strategy):
    spread = on_two_devices[strategy]["3"]
    assert (spread["devices"], spread["shard"]) == (1, 3)
    np.testing.assert_allclose(spread["losses"], train(3, strategy)["losses"], atol=1e-6)
    assert jnp.isfinite(jnp.asarray(spread["losses"])).all()
