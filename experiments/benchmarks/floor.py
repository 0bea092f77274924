"""How far from the floor: the time that a program's FLOPs, or its bytes, take at the rates that the device reaches, measured beside it.

On a CPU the FLOPs are a floor, at the rate of float32 products: small models' bytes stay in its caches (docs/decisions/performance.md).
Of a large model that is read again and again, the bytes are one too, at the rate of reading. On an accelerator products run in bfloat16, and
what a program is given and gives back passes through memory once.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import flops, setting, timing
from lora_jax import training

SIZE, LARGE_SIZE = 1024, 8192  # rows of a square product, on a CPU and on an accelerator
COPIED = 2**28  # bytes, more than caches hold
TIMES = 10
PRODUCT, COPY, READ = "matrix product", "copy", "read"


class Rates(NamedTuple):
    """What the device reaches: FLOP/s of large products, and bytes/s of a large copy, read and written, or of reading; None where neither counts."""

    flops: float
    bytes: float | None = None


def alternate(works: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], Rates]:
    """As `timing.alternate`, with `references` taking their turns; the timings, and the device's rates."""
    times = timing.alternate({**works, **references()}, rounds)
    return times, rates({name: times.pop(name) for name in (PRODUCT, COPY, READ) if name in times})


def references(*, reads: bool = False) -> dict[str, Callable[[], Any]]:
    """What tells the device's rates, to be timed: some matrix products, and some copies where they count.

    Args:
      reads: the rate of reading counts on a CPU too. (A copy there waits for the system to hand out pages.)
    """
    platform = jax.default_backend()
    # Of random numbers: a GPU multiplies ones at a tenth more than its rate.
    x = jax.random.normal(jax.random.key(0), (_size(),) * 2, jnp.float32 if platform == "cpu" else jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    found = {PRODUCT: lambda: [product(x) for _ in range(TIMES)]}
    if platform != "cpu":
        large, copy = jnp.ones(COPIED // 4, jnp.float32), jax.jit(lambda x: -x)
        found[COPY] = lambda: [copy(large) for _ in range(TIMES)]
    elif reads:
        whole, largest = jnp.ones(COPIED // 4, jnp.float32), jax.jit(jnp.max)
        found[READ] = lambda: [largest(whole) for _ in range(TIMES)]
    return found


def rates(seconds: Mapping[str, list[float]]) -> Rates:
    """From what `references` took."""
    taken = {name: float(np.median(values)) for name, values in seconds.items()}
    bytes_ = {COPY: 2.0 * COPIED, READ: float(COPIED)}  # a copy reads and writes
    reached = next((count * TIMES / taken[name] for name, count in bytes_.items() if name in taken), None)
    return Rates(2.0 * _size() ** 3 * TIMES / taken[PRODUCT], reached)


def _size() -> int:
    return SIZE if jax.default_backend() == "cpu" else LARGE_SIZE


def against(row: dict[str, Any], operations: float, reached: Rates, moved: float | None = None) -> dict[str, Any]:
    """The row with its FLOPs a unit of work, what it reaches of the FLOP/s of a large product, and how many times the floor it takes.

    Args:
      moved: bytes that a unit of work must read and write, where they are known.
    """
    per_second = operations / row["median_ms"] * 1e3
    floor_s = operations / reached.flops
    if moved is not None and reached.bytes is not None:
        row = row | {"moved_bytes": moved}
        floor_s = max(floor_s, moved / reached.bytes)
    return row | {
        "flops": operations,
        "gflops_per_s": per_second / 1e9,
        "share_of_matmul_rate": per_second / reached.flops,
        "times_the_floor": row["median_ms"] / 1e3 / floor_s,
    }


def of_step(rival: setting.Rival, data: Any = None) -> float:
    """FLOPs of the products of one step, on a batch of the rival's data or of other."""
    batch = jax.tree.map(lambda leaf: leaf[: rival.batch], rival.data if data is None else data)
    return flops.of_products(training.make_step(rival.loss, rival.tx), rival.state(), rival.frozen, batch)
