"""A small language model from scratch: Muon, linear warm-up, cosine to a tenth; exact resume; held-out loss and bits per byte."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from optax.contrib import MuonDimensionNumbers, muon

from experiments.common import devices, memory, phases, processes, scored_tokens
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data.packing import Rows
from experiments.lm import bpe, corpus, diet
from experiments.lm.pretraining_settings import PRESETS as PRESETS
from experiments.lm.pretraining_settings import Settings
from experiments.lm.trigram import Trigram, contexts
from lora_jax import checkpoint, training
from lora_jax import mesh as meshes
from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM
from lora_jax.tree import flat, nested

TOKENIZER = "tokenizer.json"  # of a run: bound to it
STEPS = 10  # per compiled call
BLOCKS = 40  # measurements
FOLLOWED = 64  # held-out rows that these are of, spread over all; the last word is said by the whole
TOKENIZER_CHARACTERS = 20_000_000  # of the corpus that the tokenizer is trained on


def run(
    folder: RunFolder, settings: Settings, source: corpus.Source, tokenizer: tokenizers.Tokenizer | None = None
) -> dict[str, Any]:
    """Trains; leaves the model and its tokenizer, a given one or one trained on the text, in `folder/model` and returns the summary."""
    model = settings.model()
    _require_room(settings, model)
    tokenizer = tokenizer or trained_tokenizer(folder, model.config.vocab_size, source)
    rows = corpus.rows(tokenizer, source, settings.length, settings.tokens, settings.held_out_tokens)
    fed = diet.fed(tokenizer, source.split()[0], settings, rows.train)
    state, history, about = _train(folder, settings, model, fed, rows.held_out)
    params = meshes.fetch(state.trainable)
    if processes.is_first():
        causal_folder.write(
            folder.path / "model", model.config, params, beside=bpe.beside(tokenizer), about=bpe.about(tokenizer)
        )
    processes.wait("model")
    train, held_out = (contexts(part, model.config.vocab_size) for part in (rows.train, rows.held_out))
    loss = about["held_out_loss"]
    return {
        "bits_per_byte": loss * len(held_out) / np.log(2) / rows.held_out_bytes,
        "trigram_loss": Trigram(train, model.config.vocab_size).loss(held_out),
        "parameters": optax.tree.size(state.trainable),
        "vocab_size": tokenizer.get_vocab_size(),
        "train_tokens": rows.train.ids.size,
        "held_out_tokens": len(held_out),
        "history": [{name: np.asarray(value).tolist() for name, value in line.items()} for line in history],
        **about,
        "weights": checkpoint.fingerprint(params),
        "data": source.record(),
    }


def _require_room(settings: Settings, model: CausalLM) -> None:
    """UserError where the tokens surely do not fill the batches of a call, or a batch surely does not fit."""
    most = settings.tokens // settings.length
    if most < STEPS * settings.batch_size:
        raise UserError(
            f"--batch_size={settings.batch_size:,}: {STEPS} batches, which run as one, are {STEPS * settings.batch_size:,} rows of {settings.length} "
            f"tokens, and --tokens={settings.tokens:,} are {most:,} at most; give a smaller --batch_size, or more --tokens."
        )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))
    states = 4 * settings.batch_size * settings.length * model.config.hidden_size  # what one layer passes to the next
    memory.require(
        memory.of_training(1, memory.bytes_of(shapes)) + states * (1 if settings.remat else model.config.num_hidden_layers),
        f"training on batches of {settings.batch_size:,} rows", "give a smaller --batch_size or --length",
    )  # fmt: skip


def trained_tokenizer(folder: RunFolder, vocab_size: int, source: corpus.Source) -> tokenizers.Tokenizer:
    """Trained on the text once, and kept: an interrupted run must go on with its numbers."""
    if folder.read(TOKENIZER) is None:
        documents, budget = [], TOKENIZER_CHARACTERS
        for document in source.split()[0]:
            if budget <= 0:
                break
            documents.append(document)
            budget -= len(document)
        if processes.is_first():
            folder.write(TOKENIZER, bpe.trained(documents, vocab_size).to_str())
        processes.wait("tokenizer")
    return bpe.parsed(folder.read(TOKENIZER).encode(), str(folder.path / TOKENIZER), vocab_size)


def on_device(rows: Rows) -> dict[str, jax.Array]:
    """The rows as `scored_tokens.whole_rows` takes them."""
    return {"ids": jnp.asarray(rows.ids), "segments": jnp.asarray(rows.segments), "scored": jnp.asarray(rows.scored)}


def _train(folder: RunFolder, settings: Settings, model: CausalLM, fed: diet.Fed, held_out: Rows):
    """(state, history, what it took)."""
    data, held_out = (devices.everywhere(on_device(part)) for part in (Rows.joined(fed), held_out))
    followed = jax.tree.map(lambda leaf: leaf[:: -(-len(leaf) // FOLLOWED)], held_out)
    ahead = settings.list_steps // STEPS
    calls = ahead + settings.epochs * (len(fed.then.ids) // (STEPS * settings.batch_size))
    if calls == ahead:
        raise UserError(
            f"{len(fed.then.ids)} rows of {settings.length} tokens do not fill {STEPS} batches of {settings.batch_size}, "
            "which run as one; give more text, or a smaller --batch_size."
        )
    steps = calls * STEPS
    params = jax.jit(model.init)(jax.random.key(settings.seed), jnp.ones((1, 1), jnp.int32))["params"]
    tx = _optimizer(settings, params, steps)
    loss_fn = scored_tokens.whole_rows(model)
    epoch = training.make_epoch(loss_fn, tx, mesh=devices.mesh())
    blocks = min(BLOCKS, calls)
    ends = np.linspace(0, calls, blocks + 1).astype(int)
    clock = {"waiting_s": 0.0, "total_s": 0.0}
    measure = jax.jit(lambda params, batch: loss_fn(params, batch, None)[1])

    def advance(state, block):
        losses, started = [], time.perf_counter()
        for call in range(ends[block], ends[block + 1]):
            asked = time.perf_counter()
            order = devices.everywhere(jnp.asarray(_order(settings, call, fed)))
            clock["waiting_s"] += time.perf_counter() - asked
            state, (loss, _) = epoch(state, {}, data, order)
            losses.append(loss.mean())
        loss = jax.block_until_ready(jnp.stack(losses).mean())
        seconds = time.perf_counter() - started
        clock["total_s"] += seconds
        return state, {"loss": loss, "steps_per_second": STEPS * (ends[block + 1] - ends[block]) / seconds}

    state = training.init_state(devices.placed(params), tx, jax.random.key(settings.seed), mesh=devices.mesh())
    state, history = phases.train_blocks(
        folder, "pretrain", state, {}, advance, blocks=blocks,
        follow=lambda state: {"held_out": _held_out(measure, state.trainable, followed, settings.batch_size)},
    )  # fmt: skip
    share = clock["waiting_s"] / clock["total_s"] if clock["total_s"] else None  # a run that was resumed complete
    speeds = [line["steps_per_second"] for line in history[2:]]  # the first block compiles
    speed = float(np.median(speeds)) * settings.batch_size * settings.length if speeds else None
    loss = float(_held_out(measure, state.trainable, held_out, settings.batch_size))
    if not np.isfinite(loss):
        raise UserError(f"training diverged at --learning_rate={settings.learning_rate:g}; take a lower one.")
    return state, history, {
        "steps": steps, "held_out_loss": loss, "share_waiting_for_data": share, "tokens_per_second": speed
    }  # fmt: skip


def _optimizer(settings: Settings, params: dict[str, Any], steps: int) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for the layers' matrices, stacked [L, in, out]."""

    def schedule(peak: float):
        return optax.warmup_cosine_decay_schedule(0.0, peak, max(1, round(settings.warm_up * steps)), steps, peak / 10)

    stacked = MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2,))
    matrices = nested({path: stacked if leaf.ndim == 3 else None for path, leaf in flat(params).items()})
    of_matrices = muon(
        schedule(settings.learning_rate), weight_decay=settings.weight_decay, muon_weight_dimension_numbers=matrices,
        adam_learning_rate=schedule(settings.other_rate), adam_b2=0.95,
    )  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(1.0), of_matrices)


def _order(settings: Settings, call: int, fed: diet.Fed) -> np.ndarray:
    """int32 [STEPS, B]: the rows of a call; a function of the call alone. What comes first is seen once, the others once an epoch."""
    count, first, size = STEPS * settings.batch_size, len(fed.first.ids), len(fed.then.ids)
    call -= first // count
    if call < 0:
        return np.arange(first + call * count, first + (call + 1) * count, dtype=np.int32).reshape(STEPS, -1)
    epoch, place = divmod(call, size // count)
    order = first + np.random.default_rng((settings.seed, epoch)).permutation(size).astype(np.int32)
    return order[place * count : (place + 1) * count].reshape(STEPS, -1)


def _held_out(measure, params, data, batch_size: int) -> jax.Array:
    """Nats a token; the last batch is filled up with rows that score nothing."""
    size = len(data["ids"])
    pad = -size % batch_size
    padded = {name: jnp.pad(leaf, ((0, pad), (0, 0))) for name, leaf in data.items()}
    parts = [
        measure(params, {name: leaf[i : i + batch_size] for name, leaf in padded.items()})
        for i in range(0, size + pad, batch_size)
    ]
    return sum(total for total, _ in parts) / sum(count for _, count in parts)
