"""Do a tokenizer and a model belong together?"""

from collections.abc import Mapping
from typing import Any

from lora_jax.errors import ModelError, shown
from lora_jax.models.tokenizer.text import Tokenizer


def require_vocabulary(tokenizer: Tokenizer, vocab_size: int, values: Mapping[str, Any], where: str) -> None:
    """Raises ModelError for a tokenizer of another vocabulary: ids that the model lacks, or an ordinary word where its config.json has a
    special token.

    A special token without a role may be beyond the model's, as Gemma 3's <image_soft_token> is beyond that of the sizes that see no
    images; a text that has it is refused (`Tokenizer.limit`).

    Args:
      vocab_size: the model's.
      values: of config.json.
      where: the folder or file.
    """
    if not _is_within(tokenizer, vocab_size):
        raise ModelError(
            f"{where}: the tokenizer is of another vocabulary: it has ids up to {tokenizer.vocab_size - 1:,}, and the model {vocab_size:,} tokens."
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        said = values.get(name)
        for id in said if isinstance(said, (list, tuple)) else [said]:
            _require_special(tokenizer, id, name, where)


def _is_within(tokenizer: Tokenizer, vocab_size: int) -> bool:
    """Whether the model has all ids, apart from those of special tokens without a role."""
    if tokenizer.vocab_size <= vocab_size:
        return True
    beyond = {id for id in tokenizer.backend.get_vocab(with_added_tokens=True).values() if id >= vocab_size}
    roles = {tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk, *tokenizer.ends}
    return beyond <= tokenizer.special - roles


def _require_special(tokenizer: Tokenizer, id: Any, name: str, where: str) -> None:
    if id is None or id == -1:  # -1: none, as some files write it
        return
    if isinstance(id, bool) or not isinstance(id, int) or id < 0:
        raise ModelError(f"{where}: config.json's {name} is {shown(id)}; expected the number of a token.")
    token = tokenizer.backend.id_to_token(id)
    named = (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk)
    if token is None or (id not in tokenizer.backend.get_added_tokens_decoder() and id not in named):
        said = "no token" if token is None else f"the ordinary token {token!r}"
        raise ModelError(f"{where}: the tokenizer is of another vocabulary: config.json's {name} {id} is {said} of it.")
