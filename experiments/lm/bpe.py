"""Byte-level BPE tokenizers (Hugging Face's `tokenizers`), trained on a corpus and kept with the run."""

import json
from collections.abc import Iterable

import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

from experiments.common.errors import UserError
from experiments.data import templates
from lora_jax.errors import first_line
from lora_jax.files import parse

PAD, END, QUESTION, ANSWER = "<pad>", "<end>", "<question>", "<answer>"
SPECIAL = (PAD, END, QUESTION, ANSWER)  # 0, 1, 2, 3
FILE = "tokenizer.json"


def trained(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """At most `vocab_size` tokens, the 256 bytes among them: every text can be encoded, and decoded as it was but for a space it begins with.

    A space stands before every text, so that a word has the same tokens where an answer begins as within a question: else a model cannot copy it.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _literal(tokenizer)


def _literal(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A text that happens to say "<end>" is encoded as these five characters."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def content(tokenizer: tokenizers.Tokenizer) -> bytes:
    """Of a file tokenizer.json."""
    return tokenizer.to_str().encode()


def beside(tokenizer: tokenizers.Tokenizer) -> dict[str, bytes]:
    """What lies beside a model: the tokenizer, its special tokens, and the chat template by which the model is asked."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD}
    return {
        FILE: content(tokenizer),
        "tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode(),
        templates.FILE: templates.TINY.encode(),
    }


def about(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
    """What a model's config.json says about it."""
    return {"eos_token_id": tokenizer.token_to_id(END), "pad_token_id": tokenizer.token_to_id(PAD)}


def read(folder: epath.Path, vocab_size: int) -> tokenizers.Tokenizer:
    """The tokenizer of a model's folder.

    Raises:
      UserError: when it is absent, damaged, without our special tokens, or has more tokens than the model has embeddings.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"{folder}: there is no {FILE} in it.")
    return parsed(file.read_bytes(), str(file), vocab_size)


def parsed(text: bytes, file: str, vocab_size: int) -> tokenizers.Tokenizer:
    """The tokenizer that a file's content says. Raises UserError as `read`."""
    try:
        parse(text, file)  # a word that is there twice has two numbers
        tokenizer = tokenizers.Tokenizer.from_str(text.decode())
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{file} is no tokenizer ({first_line(error)}).") from error
    missing = [token for token in SPECIAL if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(f"{file}: {', '.join(missing)} missing; it was not trained here.")
    if tokenizer.get_vocab_size() > vocab_size:
        raise UserError(
            f"{file} has {tokenizer.get_vocab_size()} tokens and the model {vocab_size} embeddings; they do not belong together."
        )
    return _literal(tokenizer)
