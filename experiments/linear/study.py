"""S2, part I: a linear teacher y = x W*, and a student x (W0 + s a b), W0 frozen. `teachers.py` and `chains.py` have the mathematics."""

from typing import Any

from experiments.common import memory
from experiments.common.recording import RunFolder
from experiments.linear import deep, early, inputs
from experiments.linear.settings import PRESETS as PRESETS
from experiments.linear.settings import Settings


def summary(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """Trains the parts that the settings have, each making sure that what is frozen never moved."""
    memory.require(
        needed(settings), f"training the members of {settings.seeds:,} seeds at once", "give fewer --seeds or --ranks"
    )
    traces = {}
    rows, traces[inputs.PHASE] = inputs.measured(folder, settings)
    first_steps, layers = [], []
    if settings.rates:
        first_steps, traces[early.PHASE] = early.measured(folder, settings)
    if settings.depths:
        layers, of_depths = deep.measured(folder, settings)
        traces |= of_depths
    return {
        "rows": rows,
        "early": first_steps,
        "deep": layers,
        "steps": settings.steps,
        "shared_rate": settings.learning_rate,
        "traces": traces,
        "base_unchanged": True,
    }


def needed(settings: Settings) -> int:
    """Bytes, at least, of the largest part."""
    return max(inputs.needed(settings), early.needed(settings), deep.needed(settings))
