"""What a fine-tuning leaves on disk, and what is read back: a run's folder, an adapter of orbax, or a folder of PEFT.

A run's folder holds `adapter/` (by orbax, bound to its base) and `peft/`, or `model/` (full, head: a Hugging Face folder).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from etils import epath

import lora_jax
from experiments.common import devices, processes, recording
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, read_run
from experiments.finetune.base import MODEL, ON_HUB, Base, Voice
from experiments.finetune.settings import Settings
from experiments.finetune.training import config_of
from lora_jax import checkpoint, mesh
from lora_jax.models import from_pretrained, save_pretrained
from lora_jax.peft import adapter_config
from lora_jax.peft.adapter_config import NAME as PEFT_CONFIG

RUN = "finetune_lm"  # begins the names of the runs' folders
ADAPTER, PEFT = "adapter", "peft"


def save(folder: RunFolder, settings: Settings, base: Base, params: dict[str, Any]) -> dict[str, str]:
    """What was trained, in place of whatever is there; its folders by name."""
    if settings.regime != "lora":
        params = mesh.fetch(params)
        if processes.is_first():
            save_pretrained(folder.path / MODEL, base.model, params, base.tokenizer)
        processes.wait(MODEL)
        return {MODEL: MODEL}
    config = config_of(settings)
    recording.remove(folder.path / ADAPTER)
    checkpoint.save_adapter(folder.path / ADAPTER, params, config, mask=None, run=folder.run)
    if processes.is_first():
        lora_jax.peft.save(
            folder.path / PEFT, params, config, base.model, mask=None, base_model=base.name, task_type="CAUSAL_LM"
        )
    processes.wait(PEFT)
    return {ADAPTER: ADAPTER, PEFT: PEFT}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of `finetune_lm.py`."""

    path: epath.Path
    summary: dict[str, Any]

    @property
    def model(self) -> str:
        """Its base, as --model names it."""
        return self.summary["base"]["model"]

    @property
    def base_checksum(self) -> str:
        """`Base.checksum` of its base."""
        return self.summary["base"]["sha256"].split()[-1]  # after that of the data


def run_at(path: epath.Path) -> Run | None:
    """The finished run of a folder, or of what it left there; None where it is none.

    Raises:
      UserError: for a summary that was changed.
    """
    for folder in (path, path.parent):
        if (folder / "config.json").is_file() and (folder / recording.SUMMARY).is_file():
            summary = read_run(folder, RUN)
            return None if summary is None else Run(folder, summary)
    return None


def base_of(path: epath.Path, run: Run | None) -> str | None:
    """What --model names the base of --adapter by, as its run or PEFT's config says; None where neither does, and for SmolLM2 in PEFT's,
    which is not told from the hub's there.

    Raises:
      UserError: where there is no such folder.
      LoRAError: for a config of PEFT that cannot be read.
    """
    if not path.is_dir():
        raise UserError(f"--adapter={path}: there is no such folder.")
    name = _said_base(path) if run is None else run.model
    if name is None or (run is None and name == ON_HUB):
        return None
    print(f"adapter: {path}, made on {name}", flush=True)
    return name


def _said_base(path: epath.Path) -> str | None:
    """The base that a folder of PEFT names, if it is one and does."""
    return adapter_config.read(path).get("base_model_name_or_path") or None if (path / PEFT_CONFIG).is_file() else None


def voice_at(path: epath.Path, base: Base) -> Voice:
    """What --adapter names, on its base; a line where PEFT's config names another one, by which nothing binds it.

    Raises:
      UserError: for a folder that is none of those that are read.
      LoRAError: for one that belongs to another base, or is damaged.
    """
    if (path / PEFT_CONFIG).is_file():
        said = _said_base(path)
        if said not in (None, base.given, base.name):
            print(f"warning: {path / PEFT_CONFIG} names {said} as the base, and it is put on {base.name}.", flush=True)
        found = lora_jax.peft.load(path, base.params, base.model)
        return Voice(devices.placed(found.params), lora_jax.LoRA(base.model, found.config))
    run = run_at(path)
    if run is not None and (run.path / MODEL).is_dir():
        return _whole(run, base)
    where = path / ADAPTER if (path / ADAPTER).is_dir() else path
    if not checkpoint.steps(where):
        raise UserError(
            f"--adapter={path}: it is no folder of a finished run of --job=finetune, none of an adapter that lora_jax saved, and none of PEFT "
            f"({PEFT_CONFIG})."
        )
    found = checkpoint.load(where, base.params, base.model, run=None if run is None else run.summary["run"])
    return Voice(devices.placed(found.params), found.model)


def _whole(run: Run, base: Base) -> Voice:
    """The model of a run that trained without adapters; its base is what tokens and differences are of."""
    if run.base_checksum != base.checksum:
        raise UserError(
            f"--adapter={run.path}: it was trained on {run.model}, and {base.name} is another model, or was changed since then; leave --model "
            f"out, or speak to the trained model alone by --model={run.path / MODEL}."
        )
    found = from_pretrained(run.path / MODEL, dtype=base.model.dtype)
    if checkpoint.fingerprint(found.params) != run.summary["weights"]:
        raise UserError(f"{run.path / MODEL} does not hold the weights that its run wrote; run --job=finetune again.")
    return Voice(devices.placed(found.params), found.model)


def merged(voice: Voice) -> dict[str, Any]:
    """The base with the adapter folded in; a model that has none is itself."""
    return lora_jax.merge(voice.params) if _has_adapter(voice) else voice.params


def _has_adapter(voice: Voice) -> bool:
    return isinstance(voice.through, lora_jax.LoRA)


def off(voice: Voice) -> Voice | None:
    """The same with its adapter switched off; None where it has none."""
    return Voice(lora_jax.scaled(voice.params, jnp.zeros(())), voice.through) if _has_adapter(voice) else None
