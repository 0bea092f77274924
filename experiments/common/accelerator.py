"""The accelerator, settled before JAX starts a backend."""

import importlib.util
import os

import jax
import jaxlib

from experiments.common.errors import UserError

ABSENT = (RuntimeError, AssertionError)  # which of them JAX 0.10 raises depends on the platform named
# XLA's YNNPACK fusions on several CPU devices keep a MB or two of every step of a loop until the program ends (seen in jaxlib 0.11.2 and 0.12.0.1).
YNN, HAS_YNN = (
    "xla_cpu_experimental_ynn_fusion_type",
    (0, 11, 2),
)  # of older ones nobody knows whether they have the flag


def settle(name: str, *, cpu_devices: int = 1) -> str:
    """Makes `name` ("auto", "cpu", "gpu" or "tpu") JAX's platform; returns what runs now.

    Args:
      cpu_devices: more than 1 makes a CPU look like that many devices, which share a sweep's members; without effect
        once JAX has started.

    Raises:
      UserError: when it is absent; asking for one is never answered with another.
    """
    if cpu_devices > 1:
        _share_out(cpu_devices)
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif name != "auto":
        _require(name)
    return _default()


def _share_out(cpu_devices: int) -> None:
    try:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    except RuntimeError:  # JAX has started
        return
    asked = os.environ.get("XLA_FLAGS", "")
    has_another_xla = (
        importlib.util.find_spec("libtpu") is not None
    )  # which ends the process on a flag that it does not know
    if YNN not in asked and not has_another_xla and jaxlib.version.__version_info__ >= HAS_YNN:
        os.environ["XLA_FLAGS"] = f"{asked} --{YNN}=".strip()


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
