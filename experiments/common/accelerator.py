"""The accelerator, settled before JAX starts a backend."""

import jax

from experiments.common.errors import UserError

ABSENT = (RuntimeError, AssertionError)  # which of them JAX 0.10 raises depends on the platform named


def settle(name: str) -> str:
    """Makes `name` ("auto", "cpu", "gpu" or "tpu") JAX's platform; returns what runs now.

    Raises:
      UserError: when it is absent; asking for one is never answered with another.
    """
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
        extra = {"gpu": "cuda", "tpu": "tpu"}[name]
        raise UserError(
            f"--accelerator={name}: JAX finds no {name.upper()} on this machine, only {here}; "
            f"use --accelerator=auto, or install the driver and `pip install -e '.[{extra}]'`."
        )
