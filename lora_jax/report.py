"""What an adapted tree holds: layers, ranks, scales, sizes of the updates, and the trainable share."""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import dora, lowrank, targets
from lora_jax.config import LoRAConfig
from lora_jax.layout import Site
from lora_jax.leaves import Adapter, adapter_at, is_adapter_leaf, kernel_path, modules, name_of, require_whole
from lora_jax.partition import Mask, trainable_paths
from lora_jax.spectrum import singular_values
from lora_jax.tree import Params, flat, opened

ROUNDING = 1e-5  # an update that is smaller, over its kernel, is zero but for rounding: PiSSA's start cancels so far


@dataclasses.dataclass(frozen=True)
class Row:
    """One adapted layer, or one stack of them."""

    path: str
    kind: str  # of the layer, "Dense" say, where a layout was given; else the kernel's name; "+DoRA" where it has a magnitude
    kernel: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]
    scale: tuple[float, float]  # the smallest and the largest of a stack
    count: int  # trainable parameters of the adapter
    norm: float  # of the update, Frobenius; nan for one that diverged
    kernel_norm: float
    b_nonzero: float  # share of non-zero entries in the factor that starts at zero (b; an embedding's a)

    @property
    def rank(self) -> int:
        return self.a[-1]


@dataclasses.dataclass(frozen=True)
class Report:
    """Counts are numbers of scalar parameters; scales are settings and are not counted.

    `share` is adapter / (base + adapter), PEFT's convention; `ratio` is adapter / base, the papers'. `trainable`
    counts what the mask trains (adapters and heads), or the adapters where no mask is given. `b_nonzero` counts the
    layers whose update is more than rounding: none before the first step, all after it.

    >>> Report((), base=12, adapter=4, trainable=4, b_nonzero=0, matches={}).share
    0.25
    """

    rows: tuple[Row, ...]
    base: int
    adapter: int
    trainable: int
    b_nonzero: int
    matches: dict[str, int]

    @property
    def total(self) -> int:
        return self.base + self.adapter

    @property
    def share(self) -> float:
        return self.adapter / self.total

    @property
    def ratio(self) -> float:
        return self.adapter / self.base

    @property
    def trainable_share(self) -> float:
        return self.trainable / self.total

    def __str__(self) -> str:
        heads = ("layer", "kind", "kernel", "rank", "scale", "parameters", "norm of update", "b nonzero")
        table = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
        lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in table]
        lines += [f"{pattern!r} matches {count}" for pattern, count in self.matches.items()]
        lines.append(
            f"base {self.base:,}; adapters {self.adapter:,} in {len(self.rows)} layers ({100 * self.ratio:.3f} % of the base); "
            f"lora_b nonzero {self.b_nonzero}/{len(self.rows)}"
        )
        lines.append(f"trainable {self.trainable:,}, total {self.total:,}, {100 * self.trainable_share:.3f} %")
        return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.scale
    scale = f"{low:g}" if low == high else f"{low:g}..{high:g}"
    kernel = "x".join(map(str, row.kernel))
    return row.path, row.kind, kernel, str(row.rank), scale, f"{row.count:,}", f"{row.norm:.4g}", f"{row.b_nonzero:.0%}"


def report(
    params: Params, mask: Mask | None = None, config: LoRAConfig | None = None, layout: Mapping[str, Site] | None = None
) -> Report:
    """Takes stock of an adapted (or plain) tree; `print` it for a table.

    Args:
      params: the tree.
      mask: from `trainable_mask`, to count heads that train beside the adapters.
      config: to count, per target pattern, the layers it selected.
      layout: from `lora_jax.layout`, to name the layers' classes.

    Raises:
      TreeError: for an adapter of which a part is missing, or without its kernel.

    >>> params = {"head": {"kernel": np.ones((3, 4)), "lora_a": np.ones((3, 2)), "lora_b": np.zeros((2, 4)),
    ...                    "lora_scale": np.ones(())}}
    >>> r = report(params)
    >>> r.base, r.adapter, r.b_nonzero, r.rows[0].norm
    (12, 14, 0, 0.0)
    >>> str(r).splitlines()[-1]
    'trainable 14, total 26, 53.846 %'
    """
    leaves = flat(params)
    require_whole(leaves)
    rows = tuple(_row(leaves, module, layout or {}) for module in modules(leaves))
    adapter = sum(row.count for row in rows)
    return Report(
        rows=rows,
        base=sum(math.prod(np.shape(opened(leaf))) for path, leaf in leaves.items() if not is_adapter_leaf(path)),
        adapter=adapter,
        trainable=adapter if mask is None else sum(math.prod(np.shape(leaves[path])) for path in trainable_paths(mask)),
        b_nonzero=sum(not row.norm <= ROUNDING * row.kernel_norm for row in rows),
        matches={} if config is None else _matches(config, [row.path for row in rows]),
    )


def _row(leaves: dict, module: str, layout: Mapping[str, Site]) -> Row:
    path, adapter = kernel_path(leaves, module), adapter_at(leaves, module)
    kernel, name = leaves[path], module.rstrip("/")
    is_abstract = isinstance(adapter.a, jax.ShapeDtypeStruct)  # from jax.eval_shape: there are sizes and nothing else
    scale = np.full(1, np.nan) if is_abstract else np.asarray(adapter.scale)
    kind = layout[name].kind if name in layout else name_of(path)
    trained = [leaf for leaf in (adapter.a, adapter.b, adapter.magnitude) if leaf is not None]
    return Row(
        path=name or "(root)",
        kind=kind if adapter.magnitude is None else f"{kind}+DoRA",
        kernel=np.shape(opened(kernel)),
        a=np.shape(adapter.a),
        b=np.shape(adapter.b),
        scale=(float(scale.min()), float(scale.max())),
        count=sum(math.prod(np.shape(leaf)) for leaf in trained),
        norm=0.0 if is_abstract else _norm(kernel, adapter),
        kernel_norm=0.0
        if is_abstract
        else float(jnp.linalg.norm(jnp.asarray(nn.meta.unbox(kernel), jnp.float32).ravel())),
        b_nonzero=0.0
        if is_abstract
        else min(float(np.mean(np.asarray(factor) != 0)) for factor in (adapter.a, adapter.b)),
    )


def _norm(kernel, adapter: Adapter) -> float:
    """Of the adapted kernel minus the kernel; by the factors alone, except for DoRA."""
    if adapter.magnitude is None:
        return float(np.sqrt(np.sum(np.square(singular_values(adapter)))))
    value = jnp.asarray(nn.meta.unbox(kernel), jnp.float32)
    adapter = Adapter(*(None if leaf is None else jnp.asarray(leaf) for leaf in adapter))
    adapted = value + lowrank.delta(*adapter.factors(), adapter.scale).reshape(value.shape)
    return float(jnp.linalg.norm((dora.merged(value, adapted, adapter) - value).ravel()))


def _matches(config: LoRAConfig, paths: list[str]) -> dict[str, int]:
    return {
        p: len(paths) if p == targets.ALL_LINEAR else sum(targets.matches(p, path) for path in paths)
        for p in config.targets
    }
