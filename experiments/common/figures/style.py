"""How figures look, in one place. Nothing here imports jax."""

import io

import matplotlib
from absl import flags
from etils import epath

from experiments.common import smoke
from experiments.common.recording import write_bytes

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

FLAGS = flags.FLAGS
FORMATS = ("png", "svg", "pdf")
UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
DPI = 110
COLORS = {"LoRA": "#1f77b4", "full": "#d62728", "head only": "#7f7f7f", "base": "#2ca02c"}


def new(width: float = 7, height: float = 4.5, columns: int = 1, **kwargs):
    """A figure and its axes, with light grids and no top or right frame."""
    figure, axes = plt.subplots(1, columns, figsize=(width, height), constrained_layout=True, squeeze=False, **kwargs)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, (axes[0][0] if columns == 1 else axes[0])


def save(figure, path: epath.Path) -> epath.Path:
    """As --figure_format and --dpi say, each file whole or not at all; without dates, so that equal data give equal files. Of several processes
    the first writes.

    Returns:
      The file, on every process; of several formats the first that is named.
    """
    if smoke.is_on():
        figure.suptitle("\n".join(filter(None, [smoke.NOTE, figure.get_suptitle()])), fontsize=8)
    paths = [path.with_suffix(f".{format}") for format in _given("figure_format", FORMATS[:1])]
    for file in paths:
        drawn = io.BytesIO()
        kind = file.suffix.removeprefix(".")
        with matplotlib.rc_context({"svg.hashsalt": "lora_jax"}):  # ids that are the same each time
            figure.savefig(drawn, format=kind, dpi=_given("dpi", DPI), metadata=UNDATED[kind])
        write_bytes(file, drawn.getvalue())
    plt.close(figure)
    return paths[0]


def _given(flag: str, default):
    """A flag's value; the default where nothing has flags (a test, a notebook)."""
    return default if flag not in FLAGS or FLAGS[flag].value is None else FLAGS[flag].value


def error_bars(estimates: list[dict]) -> list[list[float]]:
    """Distances below and above the means, for matplotlib's `yerr`; 0 where there is no interval."""
    below = [max(0.0, e["mean"] - e["low"]) if e["low"] is not None else 0.0 for e in estimates]
    above = [max(0.0, e["high"] - e["mean"]) if e["high"] is not None else 0.0 for e in estimates]
    return [below, above]


def rank_axis(axis, ranks: list[int], label: str = "rank r") -> None:
    """Ranks on a binary logarithmic axis, each with its tick."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ranks, [str(rank) for rank in ranks])
    axis.set_xlabel(label)
