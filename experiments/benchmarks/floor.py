"""How far from the floor: the time that the FLOPs of a program's matrix products take at the rate of a large product, measured beside it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import flops, setting, timing
from lora_jax import training

SIZE, TIMES = 1024, 10
PRODUCT = "matrix product"


def alternate(works: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], float]:
    """As `timing.alternate`, with float32 matrix products taking their turns; the timings, and the products' FLOP/s."""
    times = timing.alternate({**works, PRODUCT: products()}, rounds)
    return times, rate(times.pop(PRODUCT))


def products() -> Callable[[], Any]:
    """Some matrix products, to be timed."""
    x = jnp.ones((SIZE, SIZE))
    product = jax.jit(lambda x: x @ x)
    return lambda: [product(x) for _ in range(TIMES)]


def rate(seconds: list[float]) -> float:
    """FLOP/s, from what `products` took."""
    return 2.0 * SIZE**3 * TIMES / float(np.median(seconds))


def against(row: dict[str, Any], operations: float, per_second: float) -> dict[str, Any]:
    """The row with its FLOPs a unit of work, and what it reaches of the FLOP/s of a large product."""
    reached = operations / row["median_ms"] * 1e3
    return row | {
        "flops": operations,
        "gflops_per_s": reached / 1e9,
        "share_of_matmul_rate": reached / per_second,
        "times_the_floor": per_second / reached,
    }


def of_step(rival: setting.Rival, data: Any = None) -> float:
    """FLOPs of the products of one step, on a batch of the rival's data or of other."""
    batch = jax.tree.map(lambda leaf: leaf[: rival.batch], rival.data if data is None else data)
    return flops.of_products(training.make_step(rival.loss, rival.tx), rival.state(), rival.frozen, batch)
