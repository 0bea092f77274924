"""diffusers' Flax U-Net (until 0.35): convolutions, cross-attention, time embeddings."""

import jax
import jax.numpy as jnp
import pytest

from tests.outside import bars
from tests.outside.bars import BATCH, LENGTH, Bars, Model

with bars.imports():
    from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers.*"),
]

ROUNDING = 3e-5  # outputs are 1e-6 apart; two gradients 1.2e-5 in float32, and 2e-14 in float64


def unet(**fields) -> Model:
    model = FlaxUNet2DConditionModel(
        sample_size=4,
        block_out_channels=(64, 96),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=10,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **fields,
    )
    random = (
        jax.random.normal(jax.random.key(0), (BATCH, 4, 4, 4)),
        jax.random.normal(jax.random.key(1), (BATCH, LENGTH, 10)),
    )
    params = model.init_weights(jax.random.key(2))
    return bars.linen(
        model, params, random[0], jnp.arange(BATCH), random[1], None, None, None, False, tolerance=ROUNDING
    )


class TestDiffusers(Bars):
    MODELS = {"U-Net": unet, "U-Net, linear projections": lambda: unet(use_linear_projection=True, split_head_dim=True)}
