"""Settings of a language model's pretraining."""

import dataclasses
from typing import TYPE_CHECKING

from experiments.common.errors import UserError

if TYPE_CHECKING:
    from lora_jax.models.causal_lm import CausalLM

SIZES = ("0.3M", "1M", "3M", "10M", "26M")  # of causal_lm.PRESETS


@dataclasses.dataclass(frozen=True)
class Settings:
    """`size` is one of SIZES; `tokens` of the corpus are seen `epochs` times, in rows of `length`.

    Before them come `list_steps` steps of lists said again, and among them shares of `lists` and `dialogues` of all rows (`diet`); unless it
    `copies`, no dialogue's answer says anything of its question again.

    `learning_rate` is Muon's, for the layers' matrices; `other_rate` AdamW's, for embeddings and norms.
    """

    size: str = "3M"
    length: int = 256
    batch_size: int = 8
    tokens: int = 8_000_000
    epochs: int = 1
    held_out_tokens: int = 200_000
    vocab_size: int | None = None  # by default the size's own
    list_steps: int = 0
    lists: float = 0.0
    dialogues: float = 0.0
    copies: bool = True
    learning_rate: float = 1e-2
    other_rate: float = 1e-2
    warm_up: float = 0.02
    weight_decay: float = 0.1
    dtype: str = "float32"
    remat: bool = False
    seed: int = 0

    def model(self) -> "CausalLM":
        """The model of this size. Raises UserError where its rows would be longer than it has positions."""
        import jax.numpy as jnp

        from lora_jax.models.causal_lm import PRESETS as CONFIGS
        from lora_jax.models.causal_lm import CausalLM

        most = CONFIGS[self.size].max_position_embeddings
        if not 2 <= self.length <= most:
            raise UserError(f"--length: {self.length} is not between 2 and {most}, the positions of {self.size}.")
        config = CONFIGS[self.size]
        if self.vocab_size is not None:
            config = dataclasses.replace(config, vocab_size=self.vocab_size)
        return CausalLM(config, jnp.dtype(self.dtype), self.remat)


PRESETS = {
    "smoke": Settings("0.3M", 64, 8, 60_000, held_out_tokens=10_000),
    "quick": Settings("0.3M", 128, 8, 1_000_000, held_out_tokens=50_000),
    "full": Settings(),
}
