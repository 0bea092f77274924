"""The gemma package's linen models: layers that are given their einsum at the call, tied tables, experts in one leaf."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tests.outside import bars
from tests.outside.bars import Bars, Model

with bars.imports():
    from gemma import gm
    from gemma.gm.nn import config as gemma3
    from gemma.gm.nn.gemma4 import _config as gemma4
    from gemma.gm.nn.gemma4 import _transformer as gemma4_transformer

pytestmark = pytest.mark.usefixtures("quick_compile")
IDS = bars.ids(19)
SIZES = {"num_embed": 19, "embed_dim": 16, "hidden_dim": 24, "num_heads": 4, "head_dim": 8, "final_logit_softcap": 30.0}

ROPE = {"local_rope_proportion": 1.0, "global_rope_proportion": 1.0}


def made(model, size: float = 0.3) -> Model:
    params = jax.jit(model.init)(jax.random.key(0), IDS)["params"]
    return bars.linen(model, bars.randomised(params, size), IDS)


def gemma_3(**fields) -> Model:
    """A local and a global layer."""
    kinds = (gemma3.AttentionType.LOCAL_SLIDING, gemma3.AttentionType.GLOBAL)
    norms = {"use_post_attn_norm": True, "use_post_ffw_norm": True, "use_qk_norm": True}
    config = gemma3.TransformerConfig(**SIZES, **norms, attention_types=kinds, sliding_window_size=4, **fields)
    return made(gm.nn.Transformer(config=config, dtype=jnp.float32))


def gemma_4(size: float = 0.3, **fields) -> Model:
    kinds = (gemma4._modules.AttentionType.LOCAL_SLIDING, gemma4._modules.AttentionType.GLOBAL)
    norms = {"use_post_attn_norm": True, "use_post_ffw_norm": True}
    config = gemma4.TransformerConfig(
        **SIZES, **norms, **ROPE, num_kv_heads=4, attention_types=kinds, sliding_window_size=4, **fields
    )
    return made(gemma4_transformer.Transformer(config=config, dtype=jnp.float32), size)


def inputs_of_each_layer() -> Model:
    """Gradients 2e-5 apart in float32 and 2e-14 in float64: rounding, which this model amplifies."""
    return dataclasses.replace(gemma_4(0.05, per_layer_input_dim=6), tolerance=1e-4)


class TestGemma(Bars):
    MODELS = {
        "Gemma 3": lambda: gemma_3(num_kv_heads=4),
        "Gemma 3, grouped heads": lambda: gemma_3(num_kv_heads=1),
        "Gemma 3, gate transposed": lambda: gemma_3(num_kv_heads=4, transpose_gating_einsum=True),
        "Gemma 4": gemma_4,
        "Gemma 4, inputs of each layer": inputs_of_each_layer,
        "Gemma 4, experts": lambda: gemma_4(
            enable_moe=True, num_experts=4, expert_dim=12, top_k_experts=2, moe_dense_hidden_dim=20
        ),
    }
