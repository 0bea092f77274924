"""Checkpoints through orbax: adapters only by default, bound to their base and config, restored strictly or not at all.

A checkpoint of step n is the folder `<directory>/n`. orbax writes it under another name and renames it when it is
whole, or in a bucket, where no folder can be renamed, writes a file last that says so: a kill during saving leaves the
previous one usable. Beside the arrays lie the config, a fingerprint of the base they belong to, and a digest of the
arrays themselves.
"""

from lora_jax.checkpoint.adapters import Loaded, load, read_config, restore_adapter, save_adapter
from lora_jax.checkpoint.fingerprints import fingerprint
from lora_jax.checkpoint.states import restore_state, save_state
from lora_jax.checkpoint.step_folders import latest_step, steps

__all__ = [
    "Loaded",
    "fingerprint",
    "latest_step",
    "load",
    "read_config",
    "restore_adapter",
    "restore_state",
    "save_adapter",
    "save_state",
    "steps",
]
