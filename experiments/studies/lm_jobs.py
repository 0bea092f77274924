"""One language model fine-tuned on a user's questions, and talked to (`tiny_lm.py --job=finetune` and `--job=chat`).

A run's folder holds `adapter/` (LoRA: by orbax, bound to its base) or `model/` (full, head: a Hugging Face folder).
"""

import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import memory, phases, processes, recording
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data import answers, bpe
from experiments.data.questions import Pairs
from experiments.settings.lm_jobs import PRESETS as PRESETS
from experiments.settings.lm_jobs import Settings
from experiments.studies import lm_judge, lm_speaker, lm_training
from experiments.studies.lm_training import Recipe, Task
from lora_jax import checkpoint, sweep
from lora_jax.models import causal_folder
from lora_jax.models.generation import Sampling

QUIT = ("/quit", "/exit", "/q")
HELD_OUT = 200  # pairs at most, a tenth of them at least


def finetune(folder: RunFolder, settings: Settings, base: lm_speaker.Base, pairs: Pairs) -> dict[str, Any]:
    """Trains on the pairs but a few held out; returns the summary."""
    _warn_of_rank(settings, base)
    _require_memory(settings, base)
    length = min(settings.length, base.model.config.max_position_embeddings)
    count = min(HELD_OUT, max(1, len(pairs.pairs) // 10))
    held_out, train = answers.split(pairs.pairs, (count, settings.limit or len(pairs.pairs)))
    encoded = {
        name: answers.encode(base.tokenizer, part, length) for name, part in (("held out", held_out), ("train", train))
    }
    batches = {name: jax.tree.map(jnp.asarray, answers.rows(part, length)) for name, part in encoded.items()}
    if len(batches["train"]["ids"]) < settings.batch_size:
        raise UserError(
            f"--batch_size={settings.batch_size}: the questions fill {len(batches['train']['ids'])} rows only."
        )
    task = Task(base.model, base.params, batches["train"], {"answers": batches["held out"]})
    member = sweep.Member(
        settings.rank if settings.regime == "LoRA" else 0, settings.scale, settings.rate, settings.seed
    )
    recipe = Recipe(settings.epochs, settings.batch_size, follow_every=1)
    outcome = lm_training.train_group(
        folder, "finetune", task, settings.regime, [member], recipe, targets=settings.targets
    )
    losses = outcome.losses["answers"][:, 0]
    if not np.isfinite(losses).all():
        raise UserError(f"training diverged at --learning_rate={settings.rate:g}; take a lower one.")
    voice = voice_of(settings, base, sweep.member_params(outcome.state, outcome.shared, 0))
    _save(folder, settings, base, voice.params)
    room = min(48, base.model.config.max_position_embeddings // 2)
    asked = [p.question for p in encoded["held out"].pairs if lm_speaker.has_room(base, p.question, room)][:20]
    said = lm_speaker.outputs(base, voice, asked, max_new_tokens=room)
    return {
        "regime": settings.regime,
        "parameters": outcome.parameters[0],
        "base_parameters": optax.tree.size(base.params),
        "loss": losses.tolist(),
        "epochs": outcome.epochs,
        "steps_per_epoch": outcome.steps_per_epoch,
        "seconds_per_step": outcome.seconds_per_step,
        "peak_bytes": outcome.peak_bytes,
        "rates": lm_judge.rates(asked, said) if asked else None,
        "outputs": [{"question": q, "answer": a} for q, a in zip(asked, said, strict=True)],
        "spectrum": jax.tree.map(np.ndarray.tolist, lora_jax.spectrum(voice.params))
        if settings.regime == "LoRA"
        else None,
        "left_out": {**pairs.left_out, "too long": sum(part.too_long for part in encoded.values())},
        "train_pairs": len(encoded["train"].pairs),
        "source": pairs.source,
        "weights": checkpoint.fingerprint(voice.params),
    }


def _require_memory(settings: Settings, base: lm_speaker.Base) -> None:
    """UserError where what is trained surely does not fit, before anything is."""
    if settings.regime == "LoRA":
        config = lora_jax.LoRAConfig(rank=1, targets=settings.targets)
        trained = memory.of_adapters(base.model, config, settings.rank, jnp.ones((1, 8), jnp.int32))
        what, advice = f"an adapter of --rank={settings.rank:,}", "give a smaller --rank"
    else:
        trained, what, advice = memory.bytes_of(base.params), f"--regime={settings.regime}", "take --regime=LoRA"
        trained = trained if settings.regime == "full" else 0
    memory.require(memory.of_training(1, trained), f"training {what}", advice)


def _warn_of_rank(settings: Settings, base: lm_speaker.Base) -> None:
    if settings.regime == "LoRA" and settings.rank >= base.model.config.hidden_size:
        print(
            f"warning: --rank={settings.rank} is not below {base.model.config.hidden_size}, the width of this model: "
            "the update is no longer low-rank.",
            flush=True,
        )


def voice_of(settings: Settings, base: lm_speaker.Base, params: dict[str, Any]) -> lm_speaker.Voice:
    """What was trained, as it is to be applied."""
    through = lora_jax.LoRA(base.model, _config(settings)) if settings.regime == "LoRA" else None
    return lm_speaker.Voice(params, through)


def _config(settings: Settings) -> lora_jax.LoRAConfig:
    return lora_jax.LoRAConfig(rank=settings.rank, scaling="constant", alpha=settings.scale, targets=settings.targets)


def _save(folder: RunFolder, settings: Settings, base: lm_speaker.Base, params: dict[str, Any]) -> None:
    """What was trained, in place of whatever is there."""
    if settings.regime == "LoRA":
        recording.remove(folder.path / "adapter")
        checkpoint.save_adapter(folder.path / "adapter", params, _config(settings), mask=None, run=folder.run)
        return
    if processes.is_first():
        tokenizer = {bpe.FILE: bpe.content(base.tokenizer)}
        causal_folder.write(folder.path / "model", base.model.config, params, beside=tokenizer)
    processes.wait("model")


def restored(folder: RunFolder, settings: Settings, base: lm_speaker.Base) -> lm_speaker.Voice:
    """What a complete run left. Raises UserError where it does not belong to the base or the run."""
    path = folder.path
    if settings.regime != "LoRA":
        return lm_speaker.Voice(lm_speaker.load(path / "model", weights=folder.summary()["weights"]).params)
    model = lora_jax.LoRA(base.model, _config(settings))
    params = lora_jax.adapt(jax.random.key(0), base.params, model, jnp.ones((1, 8), jnp.int32))
    with phases.mending(f"remove {path / 'summary.json'}, then run --job=finetune with the same flags"):
        restored = checkpoint.restore_adapter(path / "adapter", params, _config(settings), run=folder.run)
    return lm_speaker.Voice(restored, model)


def chat(
    base: lm_speaker.Base, voices: dict[str, lm_speaker.Voice], *, max_new_tokens: int, sampling: Sampling
) -> None:
    """Reads questions from standard input and answers them, until it ends (Ctrl-D, /quit); "/name" changes to another voice."""
    speaking = next(iter(voices))
    print(f"voices: {', '.join('/' + name for name in voices)}; Ctrl-D ends. Now: {speaking}.", flush=True)
    for number, line in enumerate(_lines()):
        if line in QUIT:
            return
        if line.startswith("/"):
            name = line[1:]
            speaking = name if name in voices else speaking
            print(_told(name, speaking, voices), flush=True)
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in line):  # a byte that is no UTF-8
            print("(that is not UTF-8: set the terminal to UTF-8, and ask again)", flush=True)
            continue
        try:
            (said,) = lm_speaker.outputs(
                base, voices[speaking], [line], max_new_tokens=max_new_tokens, sampling=sampling, seed=number
            )
        except UserError as error:
            said = f"({error})"
        print(said, flush=True)


def _told(name: str, speaking: str, voices: Mapping[str, lm_speaker.Voice]) -> str:
    """The answer to "/name"."""
    if name in voices:
        return f"now: {speaking}"
    names = ", ".join(f"/{voice}" for voice in voices)
    if name in ("help", "?"):
        return f"a line is a question; {names} change who answers (now: {speaking}); /help says this; /quit, /exit or Ctrl-D end."
    return f"there is no voice {name!r}; there are {', '.join(voices)}, and /help and /quit"


def _lines():
    """Questions as they are typed, blank ones left out; bytes that are no UTF-8 become half surrogate pairs."""
    if sys.stdin is None:  # closed by whoever started this
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        if line.strip():
            yield line.strip()
