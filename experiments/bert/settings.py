"""Settings of a small BERT's pretraining."""

import dataclasses
from typing import TYPE_CHECKING

from experiments.common.errors import UserError

if TYPE_CHECKING:
    from lora_jax.models.bert import BertConfig


@dataclasses.dataclass(frozen=True)
class Settings:
    """`shards` files of 8,192 examples; batches of about `tokens_per_batch`, padding included.

    `vocab_size` None is the teacher's own vocabulary. Masked words are scored in `scored_rows` of each batch: with
    30,522 tokens a scored position costs as much as encoding four tokens.
    """

    method: str = "distil"
    vocab_size: int | None = None
    shards: int = 6
    epochs: int = 2
    tokens_per_batch: int = 2048
    scored_rows: float = 0.25
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    seed: int = 0
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512

    def __post_init__(self):
        if self.method == "mlm" and self.vocab_size is None:
            raise UserError("--method=mlm needs --vocab_size: the vocabulary is trained on the corpus.")
        if self.shards < 2:
            raise UserError("--shards: the first file is held out, so at least 2 are needed.")

    def config(self, vocab_size: int, positions: int) -> "BertConfig":
        from lora_jax.models import bert

        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        return bert.BertConfig(
            vocab_size, max_position_embeddings=positions, **{name: getattr(self, name) for name in sizes}
        )


PRESETS = {
    "smoke": Settings(shards=2, epochs=1, vocab_size=1000, scored_rows=1.0),
    "quick": Settings(shards=4, epochs=1),
    "full": Settings(),
}
