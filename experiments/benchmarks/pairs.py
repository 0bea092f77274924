"""What is compared with what in each part of the benchmark, and whether both do the same work.

Every ratio is peer / ours, so that more is better for ours. "Peer" is another library, or the plain way that ours is to better: full fine-tuning,
a Python loop, runs one after another. Where ours is the dearer way by nature (a variant, a longer row) the ratio lies below 1.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from experiments.benchmarks.titles import TITLES

Rows = Mapping[str, Mapping[str, float]]
SAME = "equal"


class Pair(NamedTuple):
    """Two rows of a part, and what of them is compared. `what` says peer / ours where the rows' names do not."""

    peer: str
    ours: str
    key: str = "median_ms"
    work: str = SAME
    what: str = ""


COSTS = ("median_ms", "flops", "optimizer_bytes", "temporary_bytes", "peak_bytes")
NO_BASE = "the same batch; full fine-tuning moves all parameters"
WHOLE = "whole last layer"
FIRST_TOKEN = (
    "unequal: PEFT's BERT computes the last layer for all tokens, ours for the one token that the classifier reads"
)
ALL_TOKENS = "equal: both compute the last layer for all tokens"
ONE_TOKEN = "the same logits; the peer computes the last layer for all tokens"
PADDED = "the same sentences; the peer pads all of them to 64 tokens"
PACKED = "the same instructions; ours are packed into full rows, PEFT's are padded batches"
ADAPTERS_THERE = "unequal: transformers goes through adapters, ours is the base alone"
SHARED = "equal; what all members share is computed once"
VARIANT = "the same batch; the variant does more"
GROWTH = "the cost of growth, no rival"


def of(title: str, result: Mapping[str, Any]) -> list[Pair]:
    """The pairs of a part that was measured; none for a title that nobody knows."""
    name = next((name for name, known in TITLES.items() if known == title), None)
    return there(PAIRS[name](result), result["rows"]) if name else []


def completed(results: Mapping[str, Any]) -> dict[str, Any]:
    """With an estimate of what ours takes on the work that PEFT's BERT does, for records that lack that row: our time, by what the whole of the
    last layer costs in another part of the same run. An estimate has a median and no more."""
    titles = [TITLES["bert_peft"], TITLES["bert_step"]]
    peft, steps = ((results.get(title) or {}).get("rows", {}) for title in titles)
    row, way = f"lora_jax, {WHOLE}", f"LoRA, {WHOLE}"
    if "lora_jax" not in peft or row in peft or way not in steps:
        return dict(results)
    dearer = steps[way]["median_ms"] / steps["LoRA"]["median_ms"]
    estimate = {row: {"median_ms": peft["lora_jax"]["median_ms"] * dearer}}
    return {**results, titles[0]: {**results[titles[0]], "rows": peft | estimate}}


def there(pairs: Iterable[Pair], rows: Rows) -> list[Pair]:
    """Those whose rows have what is compared."""
    return [pair for pair in pairs if all(pair.key in rows.get(side, {}) for side in (pair.peer, pair.ours))]


def costs(peer: str, ours: str, work: str) -> list[Pair]:
    """All that a step costs."""
    return [Pair(peer, ours, key, work) for key in COSTS]


def against_full(result: Mapping[str, Any]) -> list[Pair]:
    """A LoRA step against a full one."""
    return costs("full", "LoRA", NO_BASE)


def bert_against_full(result: Mapping[str, Any]) -> list[Pair]:
    """With the last layer for one token, with the whole of it, and what the difference is."""
    whole = costs(f"full, {WHOLE}", f"LoRA, {WHOLE}", NO_BASE)
    saved = [Pair(f"{way}, {WHOLE}", way, key, ONE_TOKEN) for way in ("LoRA", "full") for key in COSTS[:2]]
    return [*against_full(result), *whole, *saved]


def peft(work: str = SAME) -> Callable[[Mapping[str, Any]], list[Pair]]:
    """PyTorch with PEFT, or transformers, against each way of ours; of as many prompts where a part has several batches."""

    def pairs(result: Mapping[str, Any]) -> list[Pair]:
        names = [(peer, ours) for ours in result["rows"] for peer in result["rows"] if _are_rivals(peer, ours)]
        return [Pair(*both, key, work) for both in names for key in ("median_ms", "peak_rss_bytes")]

    return pairs


def _are_rivals(peer: str, ours: str) -> bool:
    if not (peer.startswith("PEFT") and ours.startswith("lora_jax")):
        return False
    return peer.partition("batch")[2] == ours.partition("batch")[2]


def bert_peft(result: Mapping[str, Any]) -> list[Pair]:
    """On unequal work, and on equal work where that was measured."""
    return [pair._replace(work=ALL_TOKENS if WHOLE in pair.ours else FIRST_TOKEN) for pair in peft()(result)]


def generation(result: Mapping[str, Any]) -> list[Pair]:
    """By the base on both sides, but for records in which transformers' side had something to train."""
    found = peft(ADAPTERS_THERE if result.get("trainable") else SAME)(result)
    return [pair._replace(what=f"transformers / {pair.ours}") for pair in found]


def over_first(work: str, keys: tuple[str, ...] = ("median_ms",)) -> Callable[[Mapping[str, Any]], list[Pair]]:
    """The first row against each other one."""

    def pairs(result: Mapping[str, Any]) -> list[Pair]:
        first, *others = result["rows"]
        return [Pair(first, other, key, work) for other in others for key in keys]

    return pairs


def widths(result: Mapping[str, Any]) -> list[Pair]:
    """Full fine-tuning against LoRA, width by width."""
    return [
        Pair(name, name.replace("full", "LoRA", 1), work=NO_BASE) for name in result["rows"] if name.startswith("full")
    ]


def ranks(result: Mapping[str, Any]) -> list[Pair]:
    """Full fine-tuning against LoRA, rank by rank."""
    return [Pair("full", name, work=NO_BASE) for name in result["rows"] if name != "full"]


def strategies(result: Mapping[str, Any]) -> list[Pair]:
    """One after another inside the program against together."""
    names = [name for name in result["rows"] if name.startswith("vmap")]
    return [Pair(name.replace("vmap", "sequential", 1), name, work=SHARED) for name in names]


def tracing(result: Mapping[str, Any]) -> list[Pair]:
    """The base's own trace against that of the adapted model."""
    models = [name.removesuffix(": LoRA") for name in result["rows"] if name.endswith(": LoRA")]
    return [
        Pair(
            f"{name}: base", f"{name}: LoRA", work="the adapted model has more to trace; the floor is the base's trace"
        )
        for name in models
    ]


TRAINED = ("median_ms", "with_compilation_s")
PAIRS: dict[str, Callable[[Mapping[str, Any]], list[Pair]]] = {
    "step": against_full,
    "scan": lambda result: [Pair("loop", "scan")],
    "sweep": over_first(SHARED, TRAINED),
    "peft": peft(),
    "bert_step": bert_against_full,
    "bert_peft": bert_peft,
    "bert_lengths": lambda result: [
        Pair("padded to 64", "buckets", key, PADDED) for key in ("median_ms", "padded_tokens_per_example")
    ],
    "lm_step": against_full,
    "lm_step_26m": against_full,
    "lm_peft": peft(),
    "lm_instructions": peft(PACKED),
    "lm_generation": generation,
    "smollm2": peft(),
    "smollm2_generation": generation,
    "variants": over_first(VARIANT, ("median_ms", "temporary_bytes")),
    "flax_peers": lambda result: [
        Pair(peer, ours, key)
        for peer, ours in (("qwix, linen", "lora_jax, linen"), ("flax.nnx.LoRALinear", "lora_jax, NNX"))
        for key in ("median_ms", "flops", "temporary_bytes")
    ],
    "mixed_batch": lambda result: [
        Pair("eight calls", "mixed", work="the same 32 sentences, an adapter for every four"),
        Pair("one adapter", "mixed", work="the same 32 sentences; the peer has one adapter for all"),
    ],
    "many_adapters": over_first(SAME, TRAINED),
    "tracing": tracing,
    "bert_sweep": strategies,
    "members": over_first(SHARED),
    "ranks": ranks,
    "widths": widths,
    "lengths": over_first(GROWTH),
    "devices": over_first("equal; devices are simulated on the same cores where these are a CPU's"),
}
