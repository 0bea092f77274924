"""MaxText's decoder: layers scanned along axis 1 of their parameters, under remat, and their experts."""

import pathlib

import jax.numpy as jnp
import pytest
from flax import nnx

from tests.outside import bars
from tests.outside.bars import BATCH, LENGTH, Bars, Model

with bars.imports():
    import maxtext
    from maxtext.configs import pyconfig
    from maxtext.utils import maxtext_utils, model_creation_utils

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore:'sharding.*' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'split' argument of 'fork':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'.value' access is now deprecated:DeprecationWarning"),
]
SIZES = {
    "base_emb_dim": 16,
    "base_num_query_heads": 4,
    "base_num_kv_heads": 4,
    "base_mlp_dim": 24,
    "base_num_decoder_layers": 6,
    "head_dim": 8,
    "vocab_size": 19,
    "max_target_length": LENGTH,
    "per_device_batch_size": BATCH,
    "dtype": "float32",
    "weight_dtype": "float32",
}
QUIET = {
    "run_name": "test",
    "hardware": "cpu",
    "attention": "dot_product",
    "enable_checkpointing": False,
    "skip_jax_distributed_system": True,
    "log_config": False,
}
EXPERTS = {
    "decoder_block": "mixtral",
    "num_experts": 4,
    "base_moe_mlp_dim": 24,
    "num_experts_per_tok": 3,
    "megablox": False,
}
NORMS = ("pre_self_attention_layer_norm", "post_self_attention_layer_norm")


def made(uncovered, tolerance: float = 1e-5, **fields) -> Model:
    base = pathlib.Path(maxtext.__file__).parent / "configs" / "base.yml"
    config = pyconfig.initialize(["", str(base)], **SIZES, **QUIET, **fields)
    mesh = maxtext_utils.get_mesh_from_config(config)
    model = model_creation_utils.from_config(config, mesh=mesh, rngs=nnx.Rngs(0))

    def call(model, ids, positions, segments):
        return model(ids, positions, decoder_segment_ids=segments, enable_dropout=False)

    fn, params = bars.nnx_function(model, call)
    ids = bars.ids(19)
    return Model(
        fn,
        bars.randomised(params),
        (ids, bars.positions(), jnp.ones_like(ids)),
        uncovered=uncovered,
        tolerance=tolerance,
    )


def tied() -> Model:
    """MaxText multiplies by a tied table in bfloat16, and so rounds what is merged."""
    return made({}, tolerance=2e-2, scan_layers=False, logits_via_embedding=True)


def scanned(**fields) -> Model:
    """Stacked along axis 1."""
    return made({f"decoder/layers/{name}/scale": "scales of norms, stacked" for name in NORMS}, **fields)


class TestMaxText(Bars):
    MODELS = {
        "scanned": scanned,
        "scanned, without remat": lambda: scanned(remat_policy="none"),
        "unrolled, tied": tied,
        "experts": lambda: scanned(**EXPERTS, sparse_matmul=False),
        "experts, ragged": lambda: scanned(**EXPERTS, sparse_matmul=True),
    }
