"""What an adapted tree holds: layers, ranks, scales, sizes of the updates, and the trainable share."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import dora, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TreeError
from lora_jax.intake import adapted
from lora_jax.keys import plain
from lora_jax.layout import Layout
from lora_jax.leaves import Adapter, adapter_at, is_adapter_leaf, kernel_path, modules, name_of, require_fit
from lora_jax.merge import update
from lora_jax.norms import require_norms
from lora_jax.partition import Mask, trainable_paths
from lora_jax.products.site import Site, require_sites
from lora_jax.products.targeting import OUTPUT_LAYERS, selects
from lora_jax.spectrum import singular_values
from lora_jax.tree import Params, opened

ROOT = "(root)"
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
class Missed:
    """A matrix of the model that has no adapter, and why."""

    path: str
    kind: str  # the class of the module that holds it, where that is known
    shape: tuple[int, ...]
    share: float  # of the parameters of all the model's matrices
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """Counts are numbers of scalar parameters; scales are settings and are not counted.

    `share` is adapter / (base + adapter), PEFT's convention; `ratio` is adapter / base, the papers'. `trainable`
    counts what the mask trains (adapters and heads), or the adapters where no mask is given. `b_nonzero` counts the
    layers whose update is more than rounding: none before the first step, all after it. `missed`, where a layout was given, are the
    matrices without an adapter.

    >>> Report((), base=12, adapter=4, trainable=4, b_nonzero=0, matches={}).share
    0.25
    """

    rows: tuple[Row, ...]
    base: int
    adapter: int
    trainable: int
    b_nonzero: int
    matches: dict[str, int]
    missed: tuple[Missed, ...] = ()

    @property
    def missed_share(self) -> float:
        """Of the parameters of all the model's matrices, those in matrices without an adapter; 0 where no layout was given."""
        return sum((missed.share for missed in self.missed), 0.0)

    @property
    def total(self) -> int:
        return self.base + self.adapter

    @property
    def share(self) -> float:
        return self.adapter / max(1, self.total)

    @property
    def ratio(self) -> float:
        return self.adapter / max(1, self.base)

    @property
    def trainable_share(self) -> float:
        return self.trainable / max(1, self.total)

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
        lines += _said(self.missed, self.missed_share)
        lines.append(f"trainable {self.trainable:,}, total {self.total:,}, {100 * self.trainable_share:.3f} %")
        return "\n".join(lines)


def _said(missed: tuple[Missed, ...], share: float) -> list[str]:
    if not missed:
        return []
    lines = [f"adapters reach {1 - share:.0%} of the matrices' parameters; these have none:"]
    return lines + [
        f"  {plain(each.path)} {f'({each.kind}) ' if each.kind else ''}{'x'.join(map(str, each.shape))}, {each.share:.1%}: {each.reason}"
        for each in missed
    ]


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.scale
    scale = "-" if math.isnan(low) else f"{low:g}" if low == high else f"{low:g}..{high:g}"
    kernel = "x".join(map(str, row.kernel))
    return (
        plain(row.path),
        row.kind,
        kernel,
        str(row.rank),
        scale,
        f"{row.count:,}",
        f"{row.norm:.4g}",
        f"{row.b_nonzero:.0%}",
    )


def report(
    params: Params, mask: Mask | None = None, config: LoRAConfig | None = None, layout: Mapping[str, Site] | None = None
) -> Report:
    """Takes stock of an adapted (or plain) tree; `print` it for a table.

    Args:
      params: the tree.
      mask: from `trainable_mask`, to count heads that train beside the adapters.
      config: to count, per target pattern, the layers it selected.
      layout: from `lora_jax.layout`, to name the layers' classes, and to list the matrices that have no adapter, with the reason.

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
    require_sites(layout or {}, "report")
    leaves = adapted(params, "report: params")
    require_norms(leaves, "report")
    if not leaves:
        raise TreeError("report: the tree is empty.")
    rows = tuple(_row(leaves, module, layout or {}) for module in modules(leaves))
    adapter = sum(row.count for row in rows)
    return Report(
        rows=rows,
        base=sum(math.prod(np.shape(opened(leaf))) for path, leaf in leaves.items() if not is_adapter_leaf(path)),
        adapter=adapter,
        trainable=adapter
        if mask is None
        else sum(math.prod(np.shape(leaves[path])) for path in trainable_paths(mask, params)),
        b_nonzero=sum(not row.norm <= ROUNDING * row.kernel_norm for row in rows),
        matches={} if config is None else _matches(config, leaves, layout or {}),
        missed=_missed({row.path for row in rows}, config, layout or {}),
    )


def _missed(adapted: set[str], config: LoRAConfig | None, layout: Mapping[str, Site]) -> tuple[Missed, ...]:
    able = {place: site for place, site in layout.items() if (place or ROOT) not in adapted}
    unable = layout.missed if isinstance(layout, Layout) else {}
    total = sum(site.size for site in (*layout.values(), *unable.values()))
    return tuple(
        Missed(site.path, site.kind, site.shape, site.size / total, site.reason or _passed_by(site, config))
        for site in (*able.values(), *unable.values())
    )


def _passed_by(site: Site, config: LoRAConfig | None) -> str:
    """Why a leaf that could have an adapter has none."""
    excluding = next((pattern for pattern in config.excludes if selects(pattern, site)), None) if config else None
    if excluding is not None:
        return f"excluded by {excluding!r}"
    what = "a lookup, " if site.is_lookup else "a convolution, " if site.is_convolution else ""
    return f"{what}not among the targets"


def _row(leaves: dict, module: str, layout: Mapping[str, Site]) -> Row:
    path, adapter = kernel_path(leaves, module), adapter_at(leaves, module)
    kernel, name = leaves[path], module.rstrip("/")
    require_fit(path, np.shape(opened(kernel)), adapter, module)
    is_abstract = any(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in (*adapter, opened(kernel))
    )  # from jax.eval_shape: there are sizes and nothing else
    scale = np.full(1, np.nan) if is_abstract else np.asarray(adapter.scale)
    kind = (layout[name].kind if name in layout else "") or name_of(path)
    trained = [leaf for leaf in (adapter.a, adapter.b, adapter.magnitude) if leaf is not None]
    return Row(
        path=name or ROOT,
        kind=kind if adapter.magnitude is None else f"{kind}+DoRA",
        kernel=np.shape(opened(kernel)),
        a=np.shape(adapter.a),
        b=np.shape(adapter.b),
        scale=(float(scale.min()), float(scale.max())),
        count=sum(math.prod(np.shape(leaf)) for leaf in trained),
        norm=0.0 if is_abstract else _norm(kernel, adapter, module),
        kernel_norm=0.0
        if is_abstract
        else float(jnp.linalg.norm(jnp.asarray(nn.meta.unbox(kernel), jnp.float32).ravel())),
        b_nonzero=0.0
        if is_abstract
        else min(float(np.mean(np.asarray(factor) != 0)) for factor in (adapter.a, adapter.b)),
    )


def _norm(kernel, adapter: Adapter, module: str) -> float:
    """Of the adapted kernel minus the kernel; by the factors alone, except for DoRA."""
    if adapter.magnitude is None:
        return float(np.sqrt(np.sum(np.square(singular_values(adapter)))))
    value = jnp.asarray(nn.meta.unbox(kernel), jnp.float32)
    adapter = Adapter(*(None if leaf is None else jnp.asarray(leaf) for leaf in adapter))
    adapted = value + update(value.shape, adapter, module)
    return float(jnp.linalg.norm((dora.merged(value, adapted, adapter, module) - value).ravel()))


def _matches(config: LoRAConfig, leaves: Mapping[str, Any], layout: Mapping[str, Site]) -> dict[str, int]:
    """How many adapters each pattern speaks of; what a layout does not tell, "all-linear" speaks of."""

    def speaks(pattern: str, module: str) -> bool:
        site = layout.get(module.rstrip("/"))
        if site is not None:
            return selects(pattern, site)
        path = kernel_path(leaves, module)
        return pattern in (targets.ALL_LINEAR, OUTPUT_LAYERS) or targets.matches(pattern, path, path.rpartition("/")[0])

    return {pattern: sum(speaks(pattern, module) for module in modules(leaves)) for pattern in config.targets}
