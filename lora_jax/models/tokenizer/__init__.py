"""Text as a model's tokens, and back; conversations by the model's own chat template."""

from lora_jax.models.tokenizer.folder import FILES, WHOLE, read
from lora_jax.models.tokenizer.text import Tokenizer
from lora_jax.models.tokenizer.vocabulary import require_vocabulary

__all__ = ["FILES", "WHOLE", "Tokenizer", "read", "require_vocabulary"]
