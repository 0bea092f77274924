"""Under shard_map the adapted function is the merged one, on pieces of weights as on whole ones."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
ROLES = {
    "heads": {"q": "oio", "out": "iio"},  # one a device, and found as on one device
    "experts": {"experts": "sio", "shared": "io"},
    "scanned": {"w": "sio"},
}


@pytest.fixture(scope="module")
def facts() -> dict:
    """What eight_devices.py found."""
    more = {"JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.products.eight_devices"]
    done = subprocess.run(command, env=os.environ | more, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


NAMES = (
    "megatron",
    "megatron, unchecked",
    "megatron, the batch left to the compiler",
    "eight pieces",
    "heads",
    "experts",
    "scanned",
)


@pytest.mark.parametrize("kind", ["plain", "DoRA"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_merged_function_with_its_gradients(facts, name, kind):
    found = facts[f"{name}, {kind}"]
    assert facts["devices"] == 8
    assert found["roles"] == ROLES.get(name, {"up": "io", "down": "io"})
    assert found["apart"] < 1e-5 and found["gradients"] < 1e-5 and found["moved"] > 0.1
    assert found["formed"] == (["experts"] if (name, kind) == ("experts", "DoRA") else [])


def test_weights_that_are_gathered_first_are_told(facts):
    assert all(use.startswith("all_gather in the model (eight_devices.py:") for use in facts["gathered"].values())
    assert facts["gathered"].keys() == {"up", "down"}
