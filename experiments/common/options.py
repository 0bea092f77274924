"""The flags that experiments have in common, group by group, and what their presets make of those that are not given."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.common.flags import (
    define_choices,
    define_enum,
    define_integer,
    define_path,
    define_text,
)

PRESETS = ("smoke", "quick", "full")
MOST_EPOCHS = 10_000
MOST_WAIT_S = 7 * 24 * 3600


def by_preset(presets: Mapping[str, Any], field: str, *, none: str = "all") -> str:
    """What each preset says of a field of its settings.

    >>> import types
    >>> few, many = types.SimpleNamespace(ranks=(1, 4)), types.SimpleNamespace(ranks=(1, 2, 8))
    >>> by_preset({"smoke": few, "quick": many, "full": many}, "ranks")
    'by default 1,4 (smoke), 1,2,8 (quick, full)'
    """
    names: dict[str, list[str]] = {}
    for name, settings in presets.items():
        names.setdefault(_shown(getattr(settings, field), none), []).append(name)
    if len(names) == 1:
        return f"by default {next(iter(names))}"
    return "by default " + ", ".join(f"{value} ({', '.join(of)})" for value, of in names.items())


def by_task(flag: str, tasks: Mapping[str, Mapping[str, Any]], field: str, *, none: str = "all") -> str:
    """`by_preset` of each value that another flag may have."""
    return "; ".join(f"with {flag}={name} {by_preset(presets, field, none=none)}" for name, presets in tasks.items())


def _shown(value: Any, none: str) -> str:
    if value is None:
        return none
    if isinstance(value, (tuple, list)):
        return ",".join(_shown(item, none) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def define_common(seeds: str) -> None:
    """--accelerator, --preset, --seeds, --workdir, --profile, and what says where processes and devices are.

    Args:
      seeds: what is said of the default of --seeds.
    """
    define_enum(
        "preset", "how much to run: smoke takes seconds and shows that it works, quick takes minutes, full is the reference", PRESETS, default="quick"
    )  # fmt: skip
    define_integer("seeds", f"number of seeds; {seeds}")
    define_path("workdir", "folder that holds the runs: records, figures and saved state", default="runs")
    define_accelerator()
    define_text(
        "mesh",
        "how many devices share the members, the data and the model, e.g. members:4,data:2; by default all share the members",
    )
    define_text(
        "coordinator", "host:port of process 0, when several processes run together; by default one process runs alone"
    )
    define_integer(
        "num_processes", "how many processes run together; by default 1, or as many as the scheduler started"
    )
    define_integer("process_id", "number of this process, counted from 0; by default the scheduler gives it", least=0)
    define_integer("join_timeout", "seconds to wait for the other processes", default=300, most=MOST_WAIT_S)
    define_figures()
    flags.DEFINE_bool(
        "profile",
        False,
        "write a trace of one block of each phase into the folder that the run trains in, for TensorBoard and Perfetto",
    )


def define_figures() -> None:
    """--figure_format and --dpi; a complete run that is called again draws its figures anew."""
    define_choices(
        "figure_format",
        "file format of figures: png, svg, pdf, or several of them; by default png",
        ("png", "svg", "pdf"),
    )
    define_integer("dpi", "dots per inch of png figures; by default 110", least=30, most=1200)


def define_accelerator() -> None:
    """--accelerator."""
    define_enum(
        "accelerator",
        "device to compute on; a device that this machine lacks is an error",
        ["auto", "cpu", "gpu", "tpu"],
        default="auto",
    )


def define_data(name: str = "mnist", *, is_mnist: bool = True) -> None:
    """--data_dir, --download."""
    or_file = ", or for MNIST a file mnist.npz" if is_mnist else ""
    define_path("data_dir", f"folder where TensorFlow Datasets has prepared {name}{or_file}; by default $TFDS_DATA_DIR")
    flags.DEFINE_bool(
        "download", False, f"first prepare {name} in --data_dir; this needs the internet and the extra `prepare`"
    )
