"""What an adapted tree holds: paths, shapes, counts and the trainable share."""

import dataclasses
import math

import numpy as np

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.leaves import A, B, is_adapter_leaf, kernel_path
from lora_jax.partition import Mask, trainable_paths
from lora_jax.tree import Params, flat


@dataclasses.dataclass(frozen=True)
class Row:
    """One adapted layer. `count` is the size of a plus that of b."""

    path: str
    kernel: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]
    count: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Counts are numbers of scalar parameters; scales are settings and are not counted.

    `share` is adapter / (base + adapter), PEFT's convention; `ratio` is adapter / base, the papers'. `trainable`
    counts what the mask trains (adapters and heads), or the adapters where no mask is given. `b_nonzero` counts the
    layers whose update is not zero: none before the first step, all after it.
    """

    rows: tuple[Row, ...]
    base: int
    adapter: int
    trainable: int
    b_nonzero: int
    matches: dict[str, int]

    @property
    def share(self) -> float:
        return self.adapter / (self.base + self.adapter)

    @property
    def ratio(self) -> float:
        return self.adapter / self.base

    @property
    def trainable_share(self) -> float:
        return self.trainable / (self.base + self.adapter)

    def __str__(self) -> str:
        width = max([len(row.path) for row in self.rows] + [5])
        lines = [f"{'layer':<{width}}  {'kernel':>18}  {'lora_a':>14}  {'lora_b':>14}  {'parameters':>10}"]
        lines += [
            f"{row.path:<{width}}  {row.kernel!s:>18}  {row.a!s:>14}  {row.b!s:>14}  {row.count:>10,}"
            for row in self.rows
        ]
        lines.append(
            f"base {self.base:,}; adapters {self.adapter:,} in {len(self.rows)} layers ({100 * self.ratio:.3f} % of "
            f"the base); trainable {self.trainable:,} ({100 * self.trainable_share:.3f} % of all); "
            f"lora_b nonzero {self.b_nonzero}/{len(self.rows)}"
        )
        lines += [f"{pattern!r} matches {count}" for pattern, count in self.matches.items()]
        return "\n".join(lines)


def report(params: Params, mask: Mask | None = None, config: LoRAConfig | None = None) -> Report:
    """Takes stock of an adapted (or plain) tree.

    Args:
      params: the tree.
      mask: from `trainable_mask`, to count heads that train beside the adapters.
      config: to count, per target pattern, the layers it selected.

    >>> params = {"head": {"kernel": np.ones((3, 4)), "lora_a": np.ones((3, 2)), "lora_b": np.zeros((2, 4)),
    ...                    "lora_scale": np.ones(())}}
    >>> r = report(params)
    >>> r.base, r.adapter, r.b_nonzero
    (12, 14, 0)
    """
    leaves = flat(params)
    rows = tuple(_row(leaves, path.removesuffix(A)) for path in leaves if path.rpartition("/")[2] == A)
    adapter = sum(row.count for row in rows)
    return Report(
        rows=rows,
        base=sum(math.prod(np.shape(leaf)) for path, leaf in leaves.items() if not is_adapter_leaf(path)),
        adapter=adapter,
        trainable=adapter if mask is None else sum(math.prod(np.shape(leaves[path])) for path in trainable_paths(mask)),
        b_nonzero=sum(_has_update(leaves, path.removesuffix(A)) for path in leaves if path.rpartition("/")[2] == A),
        matches={} if config is None else _matches(config, [row.path for row in rows]),
    )


def _row(leaves: dict, module: str) -> Row:
    kernel = leaves[kernel_path(leaves, module)]
    a, b = leaves[module + A], leaves[module + B]
    return Row(
        module.rstrip("/") or "(root)",
        np.shape(kernel),
        np.shape(a),
        np.shape(b),
        math.prod(a.shape) + math.prod(b.shape),
    )


def _has_update(leaves: dict, module: str) -> bool:
    """Whether both factors are nonzero: a layer starts with zeros in b, an embedding with zeros in a."""
    return all(np.any(np.asarray(leaves[module + name])) for name in (A, B))


def _matches(config: LoRAConfig, paths: list[str]) -> dict[str, int]:
    return {
        p: len(paths) if p == targets.ALL_LINEAR else sum(targets.matches(p, path) for path in paths)
        for p in config.targets
    }
