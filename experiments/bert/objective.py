"""What a small BERT learns from: masked words, and under a teacher the directions of its vectors.

Distillation: the student's hidden state at a word's first piece, mapped linearly, points where the teacher's vector
for the word does; its pooled output likewise where the teacher's sentence vector does (losses: 1 - cosine). The
student sees masked words, the teacher does not. Letters: B batch, T tokens, D width, P scored positions.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.bert import wordpiece
from lora_jax.models import bert

MASKED = 0.15  # of the tokens; of these 80 % become [MASK], 10 % a random token, 10 % stay (Devlin et al., section 3.1)


def masked(ids: jax.Array, key: jax.Array, *, mask_id: int, vocab_size: int):
    """(ids with masked tokens [B, T], positions [B, P], weight [B, P]); special tokens are never masked.

    P = ceil(MASKED * T) places a row; a row of n real tokens uses max(1, round(MASKED * n)) of them.
    """
    places = -(-ids.shape[1] * 15 // 100)
    which, kind, other = jax.random.split(key, 3)
    ordinary = (ids != 0).at[:, 0].set(False) & (jnp.roll(ids, -1, axis=1) != 0).at[:, -1].set(False)
    noise = jnp.where(ordinary, jax.random.uniform(which, ids.shape), -1.0)
    score, positions = jax.lax.top_k(noise, places)
    wanted = jnp.maximum(1, jnp.round(MASKED * ordinary.sum(1, keepdims=True)))
    chosen = (score >= 0) & (jnp.arange(places)[None] < wanted)
    old = jnp.take_along_axis(ids, positions, axis=1)
    dice = jax.random.uniform(kind, positions.shape)
    random = jax.random.randint(other, positions.shape, len(wordpiece.SPECIAL), vocab_size)
    new = jnp.where(dice < 0.8, mask_id, jnp.where(dice < 0.9, random, old))
    rows = jnp.arange(len(ids))[:, None]
    return ids.at[rows, positions].set(jnp.where(chosen, new, old)), positions, chosen.astype(jnp.float32)


def make_loss(config: bert.BertConfig, mask_id: int, scored_rows: float):
    """`loss_fn(params, batch, key) -> (loss, parts)`, parts {"mlm", "words", "sentence"} -> (total, count)."""
    model = bert.BertForMaskedLM(config)

    def forward(module, ids, positions, rows):
        states, pooled = module.bert(ids, ids != 0)
        return states[-1], pooled, module.score(states[-1][:rows], positions[:rows])

    def loss_fn(params, batch, key):
        ids = batch["ids"]
        rows = max(1, round(scored_rows * len(ids)))
        seen, positions, weight = masked(ids, key, mask_id=mask_id, vocab_size=config.vocab_size)
        seen = jnp.concatenate([seen[:rows], ids[rows:]])  # what is not scored is seen whole
        hidden, pooled, logits = model.apply({"params": params["student"]}, seen, positions, rows, method=forward)
        true = jnp.take_along_axis(ids, positions, axis=1)[:rows]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, true)
        parts = {"mlm": ((losses * weight[:rows]).sum(), weight[:rows].sum())}
        if "words" in batch:
            words = batch["words"].astype(jnp.float32)
            placed = (words != 0).any(-1)
            parts["words"] = _distance(hidden @ params["word_map"], words, placed)
            sentence = batch["sentence"].astype(jnp.float32)
            parts["sentence"] = _distance(pooled @ params["sentence_map"], sentence, jnp.ones(len(ids), bool))
        means = {name: total / count for name, (total, count) in parts.items()}
        return means["mlm"] if len(means) == 1 else means["words"] + means["sentence"] + 0.1 * means["mlm"], parts

    return loss_fn


def _distance(x: jax.Array, y: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The total of 1 - cosine(x, y) over the rows that `where` names, and their number."""
    cosine = (x * y).sum(-1) * jax.lax.rsqrt((x * x).sum(-1) + 1e-12) * jax.lax.rsqrt((y * y).sum(-1) + 1e-12)
    return jnp.where(where, 1 - cosine, 0).sum(), where.sum()
