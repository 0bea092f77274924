"""The 3 M language model: LoRA against full fine-tuning, and what is timed against PEFT: rows, instructions, generation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import floor, flops, lm_setting, steps
from lora_jax import training
from lora_jax.models.causal_lm import CausalLM, empty_cache
from lora_jax.models.generation import generate

PROMPT = 32  # tokens
FEW_ROWS = 4


def lora_against_full(count: int, rounds: int) -> dict[str, Any]:
    """As `steps.lora_against_full`."""
    rows, rate = steps.measured({"LoRA": lm_setting.lora(), "full": lm_setting.full()}, count, rounds)
    return {"rows": rows, "ratio": steps.ratios(rows["LoRA"], rows["full"]), "matmul_gflops": rate.flops / 1e9}


def large_lora_against_full(count: int, rounds: int) -> dict[str, Any]:
    """The same at the study's own size, in batches of few rows."""
    rivals = {
        "LoRA": lm_setting.lora(batch=FEW_ROWS, of=lm_setting.large()),
        "full": lm_setting.full(FEW_ROWS, lm_setting.large()),
    }
    rows, rate = steps.measured(rivals, count, rounds)
    return {"rows": rows, "ratio": steps.ratios(rows["LoRA"], rows["full"]), "matmul_gflops": rate.flops / 1e9}


def instructions(lengths: list[tuple[int, int]]) -> tuple[Callable[[], Any], float]:
    """One pass over instructions of these lengths, packed, only answers scored, in batches of about 32 of them; and its FLOPs."""
    data = lm_setting.packed(lengths)
    rows = len(data["ids"])
    batch = max(1, round(lm_setting.EXAMPLES * rows / len(lengths)))
    rival = lm_setting.lora(data, batch)
    run = training.make_epoch(rival.loss, rival.tx)
    # The last batch is filled up with rows that come again, so that no instruction is left out.
    order = jnp.resize(jax.random.permutation(jax.random.key(5), rows), (-(-rows // batch), batch)).astype(jnp.int32)
    states = [rival.state()]

    def work():
        states[0], (losses, _) = run(states[0], rival.frozen, rival.data, order)
        return losses

    return work, floor.of_step(rival) * len(order)


def generation(batch: int, new_tokens: int, of: CausalLM | None = None) -> Callable[[], Any]:
    """Greedy answers through the cache, by the 3 M model or another; noise as prompts. None of them ends early."""
    model = of or lm_setting.model()
    params = lm_setting.base(model)
    prompts = jax.random.randint(jax.random.key(6), (batch, PROMPT), 4, model.config.vocab_size, jnp.int32)
    lengths = jnp.full(batch, PROMPT, jnp.int32)
    return lambda: generate(model, params, prompts, lengths, jax.random.key(7), max_new_tokens=new_tokens)


def flops_of_generation(batch: int, new_tokens: int, of: CausalLM | None = None) -> float:
    """Of the prompts, and of each new token but the last, which none follows; attention is over the whole cache."""
    model = of or lm_setting.model()
    params = jax.eval_shape(lambda: lm_setting.base(model))
    cache = jax.eval_shape(lambda: empty_cache(model.config, batch, PROMPT + new_tokens, model.dtype))

    def one(params, ids, positions, cache):
        states, cache = model.apply({"params": params}, ids, positions, cache, method="extend")
        return model.apply({"params": params}, states[:, -1], method="score"), cache

    def counted(tokens: int) -> float:
        ids = jax.ShapeDtypeStruct((batch, tokens), jnp.int32)
        return flops.of_products(one, params, ids, ids, cache)

    return counted(PROMPT) + (new_tokens - 1) * counted(1)
