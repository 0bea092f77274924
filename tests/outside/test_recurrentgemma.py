"""recurrentgemma's linen Griffin: block-diagonal gates, a linear recurrence, remat."""

import jax
import pytest

from tests.outside import bars
from tests.outside.bars import Bars, Model

with bars.imports():
    from recurrentgemma import common
    from recurrentgemma import jax as recurrentgemma

pytestmark = pytest.mark.usefixtures("quick_compile")
KINDS = (common.TemporalBlockType.RECURRENT, common.TemporalBlockType.ATTENTION)
UNCOVERED = {
    "blocks.0/recurrent_block/conv_1d/w": "taps of a convolution that is written as sums of products entry by entry",
    "blocks.0/recurrent_block/rg_lru/a_gate/b": "biases of heads",
    "blocks.0/recurrent_block/rg_lru/input_gate/b": "biases of heads",
    "blocks.0/mlp_block/ffw_up/b": "biases of the gate and of what is gated",
    "blocks.1/mlp_block/ffw_up/b": "biases of the gate and of what is gated",
}


def griffin(**fields) -> Model:
    config = common.GriffinConfig(
        vocab_size=19,
        width=16,
        mlp_expanded_width=24,
        num_heads=4,
        block_types=KINDS,
        embeddings_scale_by_sqrt_dim=True,
        attention_window_size=5,
        logits_soft_cap=30.0,
        scan_type=common.ScanType.LINEAR_NATIVE,
    )
    model, args = recurrentgemma.Griffin(config, **fields), (bars.ids(19), bars.positions())
    params = jax.jit(model.init)(jax.random.key(0), *args)["params"]
    return bars.linen(model, params, *args, uncovered=UNCOVERED)


class TestRecurrentGemma(Bars):
    MODELS = {"Griffin": griffin, "Griffin, without remat": lambda: griffin(gradient_checkpointing=False)}
