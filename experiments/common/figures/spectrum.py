"""The singular values of an adapter's updates, layer by layer; from a summary, without jax."""

from collections.abc import Mapping

import numpy as np
from etils import epath

from experiments.common.figures import style


def draw(spectrum: Mapping[str, list], path: epath.Path) -> epath.Path:
    """A line for each layer, of all layers of a kind in one colour: is the rank used, or would a smaller one do?

    Args:
      spectrum: layer -> singular values [*L, R], as `lora_jax.spectrum` gives them.
    """
    figure, axis = style.new()
    kinds = list(dict.fromkeys(_kind(layer) for layer in spectrum))
    for layer, values in spectrum.items():
        index = kinds.index(_kind(layer))
        for line in np.asarray(values).reshape(-1, np.shape(values)[-1]):
            axis.plot(np.arange(1, len(line) + 1), line, color=f"C{index % 10}", alpha=0.7, marker=".")
    for index, kind in enumerate(kinds):
        axis.plot([], [], color=f"C{index % 10}", label=kind)
    axis.set_xlabel("number of the singular value")
    axis.set_ylabel("size in the update")
    axis.set_ylim(bottom=0)
    axis.set_title("The updates' singular values, a line for each layer", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _kind(layer: str) -> str:
    """The last word of a layer's path."""
    return layer.rpartition("/")[2] or "the root"
