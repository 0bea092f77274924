"""The accelerator, settled before JAX starts a backend."""

import contextlib

import jax

from experiments.common.errors import UserError

ABSENT = (RuntimeError, AssertionError)  # which of them JAX 0.10 raises depends on the platform named


def settle(name: str, *, cpu_devices: int = 1) -> str:
    """Makes `name` ("auto", "cpu", "gpu" or "tpu") JAX's platform; returns what runs now.

    Args:
      cpu_devices: more than 1 makes a CPU look like that many devices, which share a sweep's members; without effect
        once JAX has started.

    Raises:
      UserError: when it is absent; asking for one is never answered with another.
    """
    if cpu_devices > 1:
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", cpu_devices)
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif name != "auto":
        _require(name)
    return _default()


def _default() -> str:
    try:
        return jax.default_backend()
    except ABSENT as error:
        raise UserError(
            f"JAX_PLATFORMS={jax.config.jax_platforms}: JAX finds no such platform here; unset it, or use --accelerator=cpu."
        ) from error


def _require(name: str) -> None:
    try:
        found = jax.devices(name)
    except ABSENT:
        found = []
    if _default() != name or not found:
        here = ", ".join(sorted({device.platform for device in jax.devices()}))
        extra = {"gpu": "cuda13", "tpu": "tpu"}[name]
        raise UserError(
            f"--accelerator={name}: JAX finds no {name.upper()} on this machine, only {here}; "
            f"use --accelerator=auto, or install the driver and `pip install -e '.[{extra}]'`."
        )
