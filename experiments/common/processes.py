"""Several processes of one run, on one machine or many: joined by JAX's own runtime, speaking through files and JAX's broadcasts."""

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from experiments.common.errors import UserError

MOST_PORTS = 65535
LATE = ("DEADLINE_EXCEEDED", "timed out", "UNAVAILABLE")  # what JAX says of processes that did not come
SCHEDULERS = (("SLURM_NTASKS", "SLURM_JOB_ID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"))


def join(coordinator: str | None, number: int | None, index: int | None, *, on_tpu: bool, timeout_s: int) -> None:
    """Joins the run's processes before JAX starts a backend; a run of one process joins nothing.

    Args:
      coordinator, number, index: host:port of process 0, how many there are, and which one this is; all three or none. With none they are
        found where a scheduler or a Cloud TPU slice gives them.

    Raises:
      UserError: for a part of the three, numbers that cannot be, or when the others do not come within `timeout_s`.
    """
    given = [value is not None for value in (coordinator, number, index)]
    if not any(given):
        _join_as_found(on_tpu, timeout_s)
        return
    if not all(given):
        raise UserError("--coordinator, --num_processes and --process_id belong together; give all three, or none.")
    if not 0 <= index < number:
        raise UserError(f"--process_id={index} is not below --num_processes={number}; processes are counted from 0.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= MOST_PORTS:
        raise UserError(f"--coordinator={coordinator}: expected host:port of process 0, such as 10.0.0.2:8476.")
    if number > 1:
        _initialize(
            f"process {index} of {number} at {coordinator}", timeout_s,
            coordinator_address=coordinator, num_processes=number, process_id=index,
        )  # fmt: skip


def _join_as_found(on_tpu: bool, timeout_s: int) -> None:
    scheduled = any(of in os.environ and _number(count) > 1 for count, of in SCHEDULERS)
    if scheduled or (on_tpu and importlib.util.find_spec("libtpu")):
        try:
            _initialize("the processes that the scheduler names", timeout_s)
        except ValueError as error:  # one machine by itself
            from lora_jax.errors import first_line

            if scheduled:
                raise UserError(
                    f"the processes that the scheduler names cannot be joined ({first_line(error)}); "
                    "name them by --coordinator, --num_processes and --process_id."
                ) from error


def _number(variable: str) -> int:
    """What a scheduler's variable says; 1 without it."""
    text = os.environ.get(variable) or "1"
    if not text.strip().isdecimal():
        raise UserError(
            f"{variable}={text!r} in the environment is no number of processes; unset it, or pass --coordinator, --num_processes and --process_id."
        )
    return int(text)


def _initialize(who: str, timeout_s: int, **how: Any) -> None:
    """`jax.distributed.initialize`, which on a timeout may raise, or end the process from a thread of its own with a page of C++."""
    missing = (
        f"error: {who}: not all processes came within {timeout_s} s (--join_timeout); start the same command on every host, "
        "with one --coordinator that all can reach and ids from 0.\n"
    )
    late = threading.Timer(timeout_s + 5, lambda: (os.write(2, missing.encode()), os._exit(2)))
    late.daemon = True
    late.start()
    import jax

    from lora_jax.errors import first_line

    try:
        jax.distributed.initialize(initialization_timeout=timeout_s, **how)
    except ValueError:
        raise
    except Exception as error:  # of several kinds, by JAX's version
        if any(sign in str(error) for sign in LATE):
            raise UserError(missing.removeprefix("error: ").strip().rstrip(".")) from error
        raise UserError(f"{who}: they cannot be joined ({type(error).__name__}: {first_line(error)}).") from error
    finally:
        late.cancel()


def is_first() -> bool:
    """Whether this process writes files. One that runs alone does."""
    return not _are_several() or sys.modules["jax"].process_index() == 0


def _are_several() -> bool:
    """Without importing JAX, or starting a backend, where there is nothing to ask."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def wait(point: str) -> None:
    """Until all processes are here."""
    if _are_several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(point)


def agreed_by_first(look: Callable[[], Any]) -> Any:
    """What process 0 finds, on all of them: any JSON value. So nobody acts on another state of a file.

    Raises:
      UserError, OSError: on all of them, when `look` does so on process 0.
    """
    if not _are_several():
        return look()
    said = {}
    if is_first():
        try:
            said = {"value": look()}
        except UserError as error:
            said = {"mistake": str(error)}
        except OSError as error:
            said = {"disk": (error.errno, error.strerror or str(error), str(error.filename or ""))}
    said = _broadcast(said)
    if "mistake" in said:
        raise UserError(said["mistake"])
    if "disk" in said:
        number, problem, filename = said["disk"]
        raise OSError(number, problem, filename or None)
    return said["value"]


def leave(sentence: str, status: int) -> NoReturn:
    """Says why on stderr, and ends. One of several processes does not wait for the others, which may be waiting for it."""
    print(sentence, file=sys.stderr, flush=True)
    if _are_several():
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def is_ended_by_another(error: Exception) -> bool:
    """Whether it is what JAX raises in one of several processes when another has ended."""
    return _are_several() and type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" not in str(error)


def _broadcast(value: Any) -> Any:
    import numpy as np
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
    whole = np.zeros(size, np.uint8)
    if is_first():
        whole[:] = text
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(whole)).tobytes())
