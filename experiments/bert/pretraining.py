"""A small BERT trained on plain text: by masked LM, or distilled from a larger one with masked LM beside it."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from experiments.bert import corpus, objective, wordpiece
from experiments.bert import teacher as bert_teacher
from experiments.bert.settings import PRESETS as PRESETS
from experiments.bert.settings import Settings
from experiments.bert.teacher import SHARD
from experiments.common import devices, memory, phases, processes
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data import text
from lora_jax import mesh as meshes
from lora_jax import training
from lora_jax.models import bert, bert_folder

VOCABULARY = "vocabulary.json"  # of a run: bound to it
STEPS = 16  # per compiled call
BLOCKS = 20  # measurements
POSITIONS = 512  # as BERT has; a teacher with fewer gives what it has


def run(folder: RunFolder, settings: Settings, material: corpus.Material) -> dict[str, Any]:
    """Trains; leaves the student in `folder/model` and returns the summary."""
    sentences = text.sentences(material.corpus, material.field)
    if len(sentences) < settings.shards * SHARD:
        raise UserError(
            f"--shards={settings.shards}: the corpus has {len(sentences):,} sentences, enough for {len(sentences) // SHARD} files of {SHARD:,}."
        )
    rows = 4 * settings.epochs * settings.shards * SHARD  # the order of each epoch
    memory.require(rows, f"the order of {settings.epochs:,} epochs", "give fewer --epochs")
    teacher = bert_teacher.load(material.teacher) if settings.method == "distil" else None
    tokenizer = _tokenizer(folder, settings, sentences, teacher)
    started = time.monotonic()
    held_out, train = corpus.load(
        folder.path.parent / f"teacher-{material.checksum[:8]}", settings, sentences, teacher, tokenizer
    )
    ready = time.monotonic()
    positions = POSITIONS if teacher is None else min(POSITIONS, teacher.folder.config.max_position_embeddings)
    config = settings.config(tokenizer.get_vocab_size(), positions)
    start = _start(settings, config, tokenizer, teacher)
    params, history, steps = _train(folder, settings, config, start, train, held_out, tokenizer.token_to_id("[MASK]"))
    if processes.is_first():
        write_student(folder.path / "model", config, params, tokenizer)
    processes.wait("model")
    return {
        "held_out": {name: float(value) for name, value in history[-1].items() if name != "loss"},
        "unigram_loss": corpus.unigram_loss(train, held_out, tokenizer),
        "vocab_size": config.vocab_size,
        "parameters": optax.tree.size(params["student"]),
        "examples": sum(len(b["ids"]) for b in train),
        "tokens": int(sum((b["ids"] != 0).sum() for b in train)),
        "padded_tokens": int(sum(b["ids"].size for b in train)),
        "steps": steps,
        "data": material.record(),
        "data_s": ready - started,
        "training_s": time.monotonic() - ready,
        "history": [{name: np.asarray(value).tolist() for name, value in line.items()} for line in history],
    }


def write_student(path: epath.Path, config, params, tokenizer) -> None:
    """A Hugging Face folder with encoder, pooler and masked-LM head, in bfloat16."""
    vocabulary = {wordpiece.VOCABULARY: wordpiece.content(wordpiece.vocabulary(tokenizer))}
    bert_folder.write(path, config, params["student"], dtype=jnp.bfloat16, beside=vocabulary)


def _tokenizer(folder: RunFolder, settings: Settings, sentences: list[str], teacher):
    """The teacher's, or one trained on the text; that one is kept, for an interrupted run must go on with its numbers."""
    if settings.vocab_size is None:
        return teacher.tokenizer
    if folder.read(VOCABULARY) is None:
        if processes.is_first():
            folder.write(VOCABULARY, wordpiece.vocabulary(wordpiece.trained(sentences, settings.vocab_size)))
        processes.wait("vocabulary")
    return wordpiece.of_words(folder.read(VOCABULARY))


# ---- the student before training


def _start(settings: Settings, config: bert.BertConfig, tokenizer, teacher) -> dict[str, Any]:
    """Fresh parameters; under a teacher the embeddings are its own, reduced by PCA."""
    key = jax.random.key(settings.seed)
    student = bert.BertForMaskedLM(config).init(key, jnp.ones((1, 1), jnp.int32))["params"]
    if teacher is None:
        return {"student": student}
    tables = teacher.embeddings
    reduce = bert_teacher.PCA(tables["word_embeddings"], config.hidden_size)
    pieces = teacher.tokenizer.encode_batch(wordpiece.vocabulary(tokenizer), add_special_tokens=False)
    same = tokenizer.get_vocab() == teacher.tokenizer.get_vocab()
    word = (
        tables["word_embeddings"]
        if same
        else np.stack([tables["word_embeddings"][e.ids or [0]].mean(0) for e in pieces])
    )
    reduced = {
        "word_embeddings": reduce(word),
        "position_embeddings": tables["position_embeddings"][: config.max_position_embeddings] @ reduce.basis,
        "token_type_embeddings": tables["token_type_embeddings"] @ reduce.basis,
    }
    embeddings = student["bert"]["embeddings"] | {
        name: {"embedding": jnp.asarray(table)} for name, table in reduced.items()
    }
    maps = {name: jnp.eye(config.hidden_size) for name in ("word_map", "sentence_map")}
    return {"student": student | {"bert": student["bert"] | {"embeddings": embeddings}}, **maps}


# ---- training


def _train(folder: RunFolder, settings: Settings, config, start, train, held_out, mask_id: int):
    """(parameters, history, steps): batches of one length each, shuffled; AdamW, linear warm-up and decay."""
    batch = {b["ids"].shape[1]: settings.tokens_per_batch // b["ids"].shape[1] for b in train}
    plan = [_pieces(settings, train, batch, epoch) for epoch in range(settings.epochs)]
    calls = [call for epoch in plan for call in epoch]
    steps = STEPS * len(calls)
    warm = max(1, round(settings.warm_up * steps))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0, settings.learning_rate, warm),
            optax.linear_schedule(settings.learning_rate, 0, steps - warm),
        ],
        [warm],
    )
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))
    loss_fn = objective.make_loss(config, mask_id, settings.scored_rows)
    epoch = training.make_epoch(loss_fn, tx, mesh=devices.mesh())
    measure = jax.jit(functools.partial(_measure, loss_fn, objective.make_loss(config, mask_id, 1.0)))
    blocks = min(BLOCKS, len(calls))
    ends = np.linspace(0, len(calls), blocks + 1).astype(int)

    def advance(state, block):
        losses = []
        for bucket, rows in calls[ends[block] : ends[block + 1]]:
            data = {name: jnp.asarray(leaf[rows.reshape(-1)]) for name, leaf in train[bucket].items()}
            order = jnp.arange(rows.size, dtype=jnp.int32).reshape(rows.shape)
            state, (loss, _) = epoch(state, {}, *devices.everywhere((data, order)))
            losses.append(loss.mean())
        return state, {"loss": jnp.stack(losses).mean()}

    state = training.init_state(devices.placed(start), tx, jax.random.key(settings.seed), mesh=devices.mesh())
    state, history = phases.train_blocks(
        folder,
        "pretrain",
        state,
        {},
        advance,
        blocks=blocks,
        follow=lambda state: _held_out(measure, state.trainable, held_out),
    )
    return meshes.fetch(state.trainable), history, steps


def _pieces(settings: Settings, train, batch: dict[int, int], epoch: int) -> list[tuple[int, np.ndarray]]:
    """The calls of an epoch in random order: (bucket, rows [STEPS, B]); what fills no call waits for the next epoch."""
    rng = np.random.default_rng((settings.seed, epoch))
    calls = []
    for bucket, data in enumerate(train):
        size = batch[data["ids"].shape[1]]
        order = rng.permutation(len(data["ids"])).astype(np.int32)
        whole = len(order) // (STEPS * size)
        calls += [(bucket, rows) for rows in order[: whole * STEPS * size].reshape(whole, STEPS, size)]
    if not calls:
        raise UserError(f"--shards={settings.shards} is too little text for one call of {STEPS} batches.")
    return [calls[i] for i in rng.permutation(len(calls))]


def _measure(loss_fn, score_all, params, batch, key):
    """The distances as in training, and masked LM on every row."""
    return {**loss_fn(params, batch, key)[1], "mlm": score_all(params, batch, key)[1]["mlm"]}


def _held_out(measure, params, held_out) -> dict[str, jax.Array]:
    """Means over the held-out masked tokens, words and sentences; masked are the same every time."""
    batches = [devices.everywhere({name: jnp.asarray(leaf) for name, leaf in data.items()}) for data in held_out]
    parts = [measure(params, batch, jax.random.key(0)) for batch in batches]
    return {name: sum(part[name][0] for part in parts) / sum(part[name][1] for part in parts) for name in parts[0]}
