"""What a run costs its devices: a trace of one block of each phase (--profile), and the peak of memory."""

import contextlib
import pathlib
import resource
import sys
import tempfile
from collections.abc import Iterator

import jax
from absl import flags
from etils import epath

from lora_jax.files import is_remote

FLAGS = flags.FLAGS


@contextlib.contextmanager
def block(where: epath.Path, is_chosen: bool) -> Iterator[None]:
    """Traces a block of a phase if it is the chosen one: the second, which finds everything compiled, or the only one.

    Args:
      where: the trace's folder; of several processes each has one of its own in it.
    """
    if not (is_chosen and "profile" in FLAGS and FLAGS["profile"].value):
        yield
        return
    where = where / f"process_{jax.process_index()}" if jax.process_count() > 1 else where
    with _local(where) as folder, jax.profiler.trace(folder, create_perfetto_trace=True):
        yield
    print(
        f"profile: {where} (tensorboard --logdir {where}, or perfetto_trace.json.gz at https://ui.perfetto.dev)",
        flush=True,
    )


@contextlib.contextmanager
def _local(where: epath.Path) -> Iterator[str]:
    """The folder itself; of one in a bucket, where JAX writes no traces for Perfetto, a local one that is copied there."""
    if not is_remote(where):
        yield str(where)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder
        for path in pathlib.Path(folder).rglob("*"):
            if path.is_file():
                target = where / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())


def peak_memory() -> dict[str, int]:
    """The most bytes that each device of this process has held; of a CPU, the process itself."""
    found = {str(device): device.memory_stats() for device in jax.local_devices()}
    held = {name: stats["peak_bytes_in_use"] for name, stats in found.items() if stats and "peak_bytes_in_use" in stats}
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return held or {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
