"""The devices of a run, settled from the flags before JAX starts a backend: its processes, its platform, its mesh."""

import functools
import os
from typing import Any

import jax
from absl import flags

from experiments.common import accelerator, draws, preemption, processes
from experiments.common.errors import UserError
from lora_jax import mesh as meshes
from lora_jax.errors import MeshError

FLAGS = flags.FLAGS
MOST_CORES = 4  # that a CPU is split into: a group of members is padded to a multiple, and the smallest have four
SIMULATED = ("JAX_NUM_CPU_DEVICES", "xla_force_host_platform_device_count")  # how a user asks for CPU devices


def settle(*, with_cores: bool = False) -> str:
    """Joins the other processes, and settles the platform and the mesh; returns the platform. What is settled stays so.

    Args:
      with_cores: the cores of a CPU become devices, unless the user has said how many there are to be.

    Raises:
      UserError: for an accelerator that is absent, processes that do not come, or a mesh that does not match the devices.
    """
    _join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id, FLAGS.accelerator == "tpu", FLAGS.join_timeout)
    asked = any(name in os.environ or name in os.environ.get("XLA_FLAGS", "") for name in SIMULATED)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    platform = accelerator.settle(
        FLAGS.accelerator, cpu_devices=min(cores, MOST_CORES) if with_cores and not asked else 1
    )
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(
            "JAX finds several processes that have not been joined; pass --accelerator=tpu, or --coordinator."
        )
    draws.fuse_on_cpu()
    preemption.listen()
    mesh()
    return platform


@functools.cache
def _join(coordinator, number, index, on_tpu: bool, timeout_s: int) -> None:
    processes.join(coordinator, number, index, on_tpu=on_tpu, timeout_s=timeout_s)


def mesh() -> jax.sharding.Mesh | None:
    """What --mesh asks for; None where it is not given, or nothing has flags (a test, a notebook)."""
    text = FLAGS["mesh"].value if "mesh" in FLAGS else None
    if text is None:
        return None
    try:
        return meshes.make(**meshes.parse(text))
    except MeshError as error:
        raise UserError(f"--mesh={text}: {error}") from error


def everywhere(tree: Any) -> Any:
    """Whole on every device of --mesh; without one, as it is."""
    chosen = mesh()
    return tree if chosen is None else meshes.put(tree, chosen)


def placed(params: Any) -> Any:
    """Parameters laid out over the model axis of --mesh (`lora_jax.mesh.place`); without one, as they are."""
    chosen = mesh()
    return params if chosen is None else meshes.place(params, chosen)
