"""Training on answers: the trainable tree alone, several steps in one compiled call, a save now and then.

Letters: S steps of a call, A parts of a batch (gradient accumulation), B rows of a part.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import devices, groups, phases, scored_tokens
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.finetune.base import Base, Voice
from experiments.finetune.rows import Packed
from experiments.finetune.settings import Settings
from lora_jax import mesh, training
from lora_jax.tree import flat

MOST_STEPS = 5  # of a call
PROGRAMS = 4  # that a process keeps
PHASE = "finetune"


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """`losses` in nats a token, one a step; `seconds_per_step` is None where no call was timed but the first of a process, which may compile."""

    voice: Voice
    losses: list[float]
    seconds_per_step: float | None
    tokens_per_second: float | None
    parameters: int


def config_of(settings: Settings) -> lora_jax.LoRAConfig:
    return lora_jax.LoRAConfig(
        rank=settings.rank,
        alpha=2.0 * settings.rank if settings.alpha is None else settings.alpha,
        targets=settings.targets,
        scaling="alpha/sqrt(r)" if settings.rslora else "alpha/r",
        dropout=settings.dropout,
        init=settings.init,
        dora=settings.dora,
    )


def begun(settings: Settings, base: Base) -> Voice:
    """What is to be trained: the base, with fresh adapters where the regime is LoRA."""
    if settings.regime != "lora":
        return base.voice
    model = lora_jax.LoRA(base.model, config_of(settings))
    key = jax.random.key(settings.seed)
    return Voice(lora_jax.adapt(key, base.params, model, *base.model.example()), model)


def mask_of(settings: Settings, base: Base, params: dict[str, Any]) -> dict[str, Any]:
    """What trains: adapters; all; or the output layer, which is the table of tokens where they are tied."""
    tied = base.model.config.tie_word_embeddings
    train = {"lora": (), "full": ("*",), "head": ("model/embed_tokens",) if tied else ("lm_head",)}
    return lora_jax.trainable_mask(params, train=train[settings.regime])


def steps_of(settings: Settings, rows: int) -> int:
    """How many steps there are. Raises UserError where the rows do not fill one."""
    per_epoch = rows // (settings.batch_size * settings.accumulate)
    if not per_epoch:
        raise UserError(
            f"--batch_size={settings.batch_size:,}"
            + (f" and --accumulate={settings.accumulate:,}" if settings.accumulate > 1 else "")
            + f": the data fills {rows:,} rows of {settings.length:,} tokens only; give smaller ones, or more data."
        )
    return settings.steps or settings.epochs * per_epoch


def train(folder: RunFolder, settings: Settings, base: Base, start: Voice, data: Packed, phase: str = PHASE) -> Trained:
    """Trains from the last save of that phase, if there is one.

    Raises:
      UserError: for training that diverges.
    """
    steps = steps_of(settings, len(data))
    size = next(size for size in range(MOST_STEPS, 0, -1) if steps % size == 0)
    frozen, trainable = lora_jax.partition(start.params, mask_of(settings, base, start.params))
    trainable = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), trainable)
    tx = _optimizer(settings.rate, settings.warm_up, settings.lora_plus, steps)
    epoch = _epoch(start.through, settings.dropout > 0, tx, devices.mesh(), settings.accumulate)
    rows = devices.everywhere(data.rows)
    called: list[int] = []  # blocks, in this process

    def advance(state, block: int):
        order = _order(settings, len(data), block * size, size)
        started = time.perf_counter()
        state, (losses, _) = epoch(state, frozen, rows, devices.everywhere(jnp.asarray(order)))
        losses = mesh.fetch(losses)
        seconds = time.perf_counter() - started
        if not np.isfinite(losses).all():
            raise UserError(f"training diverged at --learning_rate={settings.rate:g}; take a lower one.")
        called.append(block)
        return state, {
            "loss": losses, "seconds": seconds, "tokens": int(data.tokens[order].sum()), "compiled": len(called) == 1
        }  # fmt: skip

    state = training.init_state(trainable, tx, jax.random.key(settings.seed), mesh=devices.mesh())
    state, history = phases.train_blocks(
        folder, phase, state, frozen, advance, blocks=steps // size, told=_told, unit=f"{size} steps"
    )
    timed = [line for line in history[2:] if not line.get("compiled", False)]  # nor that of a process that went on
    seconds, tokens = (float(sum(line[name] for line in timed)) for name in ("seconds", "tokens"))
    return Trained(
        Voice(lora_jax.combine(frozen, state.trainable), start.through),
        np.concatenate([line["loss"] for line in history[1:]]).tolist(),
        seconds / (size * len(timed)) if timed else None,
        tokens / seconds if timed else None,
        optax.tree.size(state.trainable),
    )


def _told(values: dict[str, Any]) -> str:
    """What the progress bar says of a call."""
    return f"{values['tokens'] / values['seconds']:,.0f} tokens/s, loss {values['loss'].mean():.3f}"


@functools.lru_cache(maxsize=PROGRAMS)
def _optimizer(rate: float, warm_up: float, lora_plus: float | None, steps: int) -> optax.GradientTransformation:
    """AdamW, clipped at 1; linear warm-up, then linear decay to 0."""
    rule = groups.adamw(steps, warm_up=warm_up, weight_decay=0.0)(rate)
    more = () if lora_plus is None else (lora_jax.lora_plus(lora_plus),)
    return optax.chain(optax.clip_by_global_norm(1.0), rule, *more)


@functools.lru_cache(maxsize=PROGRAMS)
def _epoch(through: Any, dropout: bool, tx: optax.GradientTransformation, over: jax.sharding.Mesh | None, parts: int):
    """One program for all runs of a process that differ in data and seed alone."""
    loss_fn = scored_tokens.gathered(through, dropout=dropout)
    return training.make_epoch(loss_fn, tx, mesh=over, parts=parts, weight=lambda part: part["weights"].sum())


def _order(settings: Settings, rows: int, first: int, count: int) -> np.ndarray:
    """int32 [S, A * B]: the rows of these steps; every epoch has an order of its own, and leaves out what fills no batch."""
    batch = settings.batch_size * settings.accumulate
    per_epoch = rows // batch

    def of_step(step: int) -> np.ndarray:
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((settings.seed, epoch)).permutation(rows)
        return order[place * batch : (place + 1) * batch]

    return np.stack([of_step(step) for step in range(first, first + count)]).astype(np.int32)


def trained_leaves(settings: Settings, base: Base) -> list[Any]:
    """Shapes of what trains of the base itself."""
    mask = flat(mask_of(settings, base, base.params))
    return [leaf for path, leaf in flat(base.params).items() if mask[path]]
