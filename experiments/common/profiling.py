"""What a run costs its devices: a trace of one block of each phase (--profile), and the peak of memory."""

import contextlib
import resource
import sys
from collections.abc import Iterator

import jax
from absl import flags
from etils import epath

FLAGS = flags.FLAGS


def define() -> None:
    """--profile."""
    flags.DEFINE_bool(
        "profile", False, "trace one block of each phase into the run's folder, for TensorBoard and Perfetto"
    )


@contextlib.contextmanager
def block(where: epath.Path, is_second: bool) -> Iterator[None]:
    """Traces the second block of a phase, which finds everything compiled; into a folder of its own."""
    if not (is_second and "profile" in FLAGS and FLAGS["profile"].value):
        yield
        return
    with jax.profiler.trace(str(where), create_perfetto_trace=True):
        yield
    print(
        f"profile: {where} (tensorboard --logdir {where}, or perfetto_trace.json.gz at https://ui.perfetto.dev)",
        flush=True,
    )


def peak_memory() -> dict[str, int]:
    """The most bytes that each device of this process has held; of a CPU, the process itself."""
    found = {str(device): device.memory_stats() for device in jax.local_devices()}
    held = {name: stats["peak_bytes_in_use"] for name, stats in found.items() if stats and "peak_bytes_in_use" in stats}
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return held or {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
