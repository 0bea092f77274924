"""Whether what is asked for fits into memory: a lower bound from shapes, before any work begins."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lora_jax
from experiments.common.errors import UserError
from lora_jax.tree import flat

MOMENTS = 2  # of Adam, for each parameter that trains
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
CGROUP = pathlib.Path("/sys/fs/cgroup")


def bytes_of(tree: Any) -> int:
    """Of all leaves: arrays, or shapes as `jax.eval_shape` gives them.

    >>> bytes_of(jax.eval_shape(lambda: {"kernel": jax.numpy.ones((4, 2)), "bias": jax.numpy.ones(2)}))
    40
    """
    return sum(int(np.prod(leaf.shape, dtype=object)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def of_training(members: int, trained: int, kept: int = 0) -> int:
    """Bytes that a group's states take at least: what trains, Adam's moments, one member's gradients, and what each keeps frozen.

    Args:
      members: how many train together.
      trained, kept: bytes of one member.

    >>> of_training(10, 1000, 500)
    36000
    """
    return members * (trained * (1 + MOMENTS) + kept) + trained


def of_bases(model: nn.Module, count: int) -> int:
    """Bytes, at least, of so many models of MNIST's images that train in full together."""
    return of_training(count, bytes_of(jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 784)))))


def of_adapters(model: nn.Module, config: lora_jax.LoRAConfig, rank: int, *inputs: Any) -> int:
    """Bytes of one model's adapters at a rank, in float32.

    Args:
      config: of rank 1; adapters grow with the rank.
    """

    def factors():
        base = model.init(jax.random.key(0), *inputs)["params"]
        return lora_jax.adapter_of(lora_jax.adapt(jax.random.key(0), base, lora_jax.LoRA(model, config), *inputs))

    found = flat(jax.eval_shape(factors))
    return rank * bytes_of([leaf for path, leaf in found.items() if path.endswith(("lora_a", "lora_b"))])


def require(needed: int, what: str, advice: str) -> None:
    """Nothing where so many bytes may fit.

    Args:
      what: whose they are, "training 90 members at once".
      advice: how to take fewer.

    Raises:
      UserError: where they surely do not fit.
    """
    there, where = available()
    if there is not None and needed > there:
        raise UserError(
            f"{what} takes {shown(needed)} of memory or more (an estimate from shapes), and {where.format(shown(there))}; {advice}."
        )


def shown(count: int) -> str:
    """Bytes for people.

    >>> shown(3 * 2**30), shown(1000)
    ('3.0 GiB', '1000 B')
    """
    power = max(0, min(len(UNITS) - 1, (count.bit_length() - 1) // 10))
    return f"{count / 2 ** (10 * power):,.1f} {UNITS[power]}" if power else f"{count} B"


def available() -> tuple[int | None, str]:
    """(bytes of all devices of the run, the words around them), None where nothing says how many."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        count = jax.device_count()
        return count * int(
            stats["bytes_limit"]
        ), "the device has {}" if count == 1 else f"the {count} devices have {{}}"
    free = [value for value in (_free_of_machine(), _free_of_container()) if value is not None]
    return (jax.process_count() * min(free) if free else None), "this machine has {} free"


def _free_of_machine() -> int | None:
    """What processes may still take, swap included."""
    found = _fields(pathlib.Path("/proc/meminfo"), ":")
    return 1024 * (found["MemAvailable"] + found.get("SwapFree", 0)) if "MemAvailable" in found else None


def _free_of_container() -> int | None:
    """Below the limit of this control group; None without one."""
    try:
        limit, used = int((CGROUP / "memory.max").read_text()), int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
    return limit - used + _fields(CGROUP / "memory.stat", "").get("inactive_file", 0)  # cached files make room


def _fields(path: pathlib.Path, mark: str) -> dict[str, int]:
    """`name<mark> number` of each line."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0].removesuffix(mark): int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
