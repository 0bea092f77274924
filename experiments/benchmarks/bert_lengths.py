"""Training on sentences in length buckets against all of them padded to the longest, at SST-2's lengths.

Letters: N examples, T tokens, S steps, B batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import bert_setting, floor, timing
from experiments.data import buckets
from lora_jax import training

# Tokens -> how many sentences of SST-2's training set have at most as many, and more than the entry before. The longest
# has 66, so that a last bucket of 64 changes next to nothing.
SST2 = {8: 25_678, 16: 19_182, 24: 9_292, 40: 6_992, 64: 1_189}
SHORTEST = 3  # [CLS], a word, [SEP]


def buckets_against_padding(steps: int, rounds: int) -> dict[str, Any]:
    """Time per example of LoRA steps over the same sentences, `steps` batches or as near as whole batches come."""
    drawn = sentences(steps)
    examples = sum(len(bucket.rows) for bucket in drawn)
    ways = {"buckets": drawn, "padded to 64": buckets.merge_small(drawn, batch_size=examples, steps=1)}
    times, rate = floor.alternate({name: one_pass(way) for name, way in ways.items()}, rounds)
    rows = {}
    for name, way in ways.items():
        row = floor.against(timing.summarise(times[name], per=examples), _operations(way) / examples, rate)
        rows[name] = row | {"examples_per_s": 1e3 / row["median_ms"], **buckets.waste(way)}
    ratio = {
        name: rows["buckets"][key] / rows["padded to 64"][key]
        for name, key in (("examples per second", "examples_per_s"), ("padded tokens", "padded_tokens"))
    }
    return {"rows": rows, "ratio": ratio, "lengths": {bucket.length: len(bucket.rows) for bucket in drawn}}


def sentences(batches: int) -> list[buckets.Bucket]:
    """Random ids with SST-2's shares of the buckets, each in whole batches; lengths are uniform within a bucket."""
    rng = np.random.default_rng(0)
    total, shortest, start, found = sum(SST2.values()), SHORTEST, 0, []
    for longest, count in SST2.items():
        size = max(1, round(batches * count / total)) * bert_setting.BATCH
        lengths = rng.integers(shortest, longest + 1, (size, 1))
        ids = rng.integers(1, bert_setting.CONFIG.vocab_size, (size, longest), np.int32)
        ids[np.arange(longest) >= lengths] = 0
        labels = rng.integers(0, 2, size, np.int32)
        found.append(buckets.Bucket(longest, np.arange(start, start + size), ids, labels))
        shortest, start = longest + 1, start + size
    return found


def _operations(parts: list[buckets.Bucket]) -> float:
    """FLOPs of all products of one pass."""
    rival = bert_setting.lora()
    return sum(floor.of_step(rival, _examples(part)) * (len(part.rows) // rival.batch) for part in parts)


def _examples(part: buckets.Bucket) -> dict[str, jax.Array]:
    return {"x": jnp.asarray(part.input_ids), "y": jnp.asarray(part.labels)}


def one_pass(parts: list[buckets.Bucket]):
    """An epoch of LoRA, one scan for each bucket; returns each one's losses [S]."""
    rival = bert_setting.lora()
    run = training.make_epoch(rival.loss, rival.tx)
    states, data = [rival.state()], []
    for part in parts:
        order = training.epoch_order(jax.random.key(5), 0, len(part.rows), rival.batch)
        data.append((_examples(part), order))

    def work():
        found = []
        for examples, order in data:
            states[0], (losses, _) = run(states[0], rival.frozen, examples, order)
            found.append(losses)
        return found

    return work
