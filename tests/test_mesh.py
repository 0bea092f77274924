"""Meshes: the same numbers as one device, each device with its share, and only what must cross devices crosses them."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lora_jax import mesh
from lora_jax.errors import MeshError
from lora_jax.mesh import AXES

ROOT = pathlib.Path(__file__).parent.parent
FOUR = jax.sharding.AbstractMesh((1, 1, 4), AXES)


@pytest.fixture(scope="module")
def facts() -> dict:
    """What tests/eight_devices.py found."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "tests.eight_devices"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices(facts):
    assert facts["devices"] == 8


@pytest.mark.parametrize(
    "name",
    [
        "members:8",
        "members, sequential",
        "members:2,data:4",
        "members:2,model:4",
        "data:8",
        "model:8",
        "data:2,model:4",
        "llama",
    ],
)
def test_the_numbers_are_those_of_one_device(facts, name):
    assert facts[name]["apart"] < 1e-6


@pytest.mark.parametrize("name", ["members:8", "members, sequential"])
def test_members_do_not_talk_and_each_device_has_its_share(facts, name):
    """30 members on 8 devices: filled up to 32; all devices are the members' where no mesh is named."""
    found = facts[name]
    assert found["collectives"] == [] and found["members"] == 32
    assert found["share of the state"] == 1 / 8


def test_members_that_do_not_divide_evenly_stay_together(facts):
    assert facts["members:8"]["devices of 30"] == 1


@pytest.mark.parametrize("name", ["members:8", "members, sequential", "members:2,data:4", "members:2,model:4"])
def test_a_sweep_compiles_once(facts, name):
    assert facts[name]["traces"] == 1 and facts[name]["programs"] == 1


def test_only_the_trainable_tree_s_gradients_cross_the_data_axis(facts):
    found = facts["data:8"]
    assert {kind for kind, _ in found["collectives"]} == {"all-reduce"}
    scalars = sum(4 * math.prod(shape) for _, results in found["collectives"] for _, shape in results if not shape)
    assert found["moved"] - scalars == found["trainable bytes"] < found["base bytes"] / 2
    assert scalars <= 8  # the loss


@pytest.mark.parametrize("name", ["model:8", "data:2,model:4", "llama"])
def test_no_kernel_is_gathered_whole(facts, name):
    kernels = facts[name].get("kernels", [[32, 32], [32, 16], [32, 48], [48, 32], [64, 32], [2, 32, 48]])
    assert facts[name]["collectives"]
    for kind, results in facts[name]["collectives"]:
        assert kind == "all-reduce" or not [shape for _, shape in results if shape in kernels], (kind, results)


def test_each_device_holds_its_part_of_the_kernels_and_factors_lie_as_kernels_do(facts):
    found = facts["model:8"]
    assert found["share of the kernels"] == 1 / 8
    assert found["factors"]["hidden_0/lora_b"] == "(None, 'model')" and found["factors"]["hidden_0/lora_a"] == "()"
    assert found["factors"]["hidden_1/lora_a"] == "('model',)" and found["factors"]["hidden_1/lora_b"] == "()"
    assert found["moments lie as their factors"]


def test_a_state_saved_from_eight_devices_is_read_onto_one(facts):
    assert facts["saved"] == 0.0


@pytest.mark.parametrize(
    ("kernel", "a", "b", "expected"),
    [
        ((8, 16), (8, 2), (2, 16), ("", "-m")),  # widens: by outputs
        ((16, 8), (16, 2), (2, 8), ("m", "")),  # narrows: by inputs
        ((8, 8), (8, 2), (2, 8), ("", "-m")),  # square: the last of equal axes
        ((3, 8, 16), (3, 8, 2), (3, 2, 16), ("", "--m")),  # stacked layers
        ((8, 4, 4), (8, 2), (2, 16), ("m", "")),  # heads
        ((3, 16, 4), (3, 2), (2, 64), ("", "-m")),  # the first of the outputs' axes
        ((3, 4, 16), (3, 2), (2, 64), ("", "")),  # one that is cut finer than the factor can follow
        ((7, 9), (7, 2), (2, 9), ("", "")),  # nothing divides
    ],
)
def test_factors_lie_as_their_kernel(kernel, a, b, expected):
    tree = {"kernel": np.ones(kernel), "lora_a": np.ones(a), "lora_b": np.ones(b), "lora_scale": np.ones(())}
    found = mesh.specs(tree, FOUR)
    as_text = lambda spec: "".join("m" if part else "-" for part in spec)  # noqa: E731
    assert (as_text(found["lora_a"]), as_text(found["lora_b"])) == expected
    assert found["lora_scale"] == jax.P()


def test_a_magnitude_lies_as_its_kernel():
    tree = {"kernel": np.ones((4, 8)), "lora_magnitude": np.ones((1, 8)), "lora_norm": np.ones((1, 8))}
    assert mesh.specs(tree, FOUR)["lora_magnitude"] == jax.P(None, "model") == mesh.specs(tree, FOUR)["lora_norm"]
    narrow = {"kernel": np.ones((8, 4)), "lora_magnitude": np.ones((1, 4))}
    assert mesh.specs(narrow, FOUR)["lora_magnitude"] == jax.P()


def test_a_mesh_that_does_not_match_the_devices():
    with pytest.raises(MeshError, match=r"members 2 x data 3 x model 1 needs 6 devices and JAX has 1; choose sizes"):
        mesh.make(members=2, data=3)


@pytest.mark.parametrize("text", ["", "members", "members:0", "rows:2", "members:2,members:4", "data:-1", "data:x"])
def test_what_is_no_mesh(text):
    with pytest.raises(MeshError, match="is no part of a mesh; give sizes of members, data, model"):
        mesh.parse(text)


def test_a_mesh_of_a_user_s_own_axes_is_told_which_one_is_missing():
    own = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("fsdp",))
    fours = jax.sharding.AbstractMesh((4,), ("fsdp",))
    for call, axis in (
        (lambda: mesh.specs({"kernel": np.ones((4, 8))}, fours), "model"),
        (lambda: mesh.place({"kernel": np.ones((4, 8))}, own), "model"),
        (lambda: mesh.cut(np.ones(4), own, 0), "data"),
        (lambda: mesh.sharing_members(fours), "members"),
    ):
        with pytest.raises(
            MeshError, match=f"has the axes 'fsdp', and '{axis}' is asked for; make it by lora_jax.mesh.make"
        ):
            call()
