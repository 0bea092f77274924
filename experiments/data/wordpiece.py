"""WordPiece tokenizers (Hugging Face's `tokenizers`): of a model's folder, or trained on text."""

import functools
import json
import os
from collections.abc import Iterable, Sequence

import tokenizers
from etils import epath
from tokenizers.implementations import BertWordPieceTokenizer

from experiments.common.errors import UserError
from lora_jax.errors import first_line
from lora_jax.files import local, write_atomically

VOCABULARY = "vocab.txt"  # one token a line, as every BERT tokenizer reads it
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # [PAD] is 0, as BERT has it


def of_folder(folder: epath.Path, vocab_size: int) -> tokenizers.Tokenizer:
    """The tokenizer of a BERT folder: tokenizer.json, or vocab.txt with do_lower_case of tokenizer_config.json.

    Raises:
      UserError: when there is neither, or it has more tokens than the model has embeddings.
    """
    file = next((folder / name for name in ("tokenizer.json", VOCABULARY) if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: there is no vocabulary in it, neither tokenizer.json nor {VOCABULARY}.")
    lowercase = _lowercase(folder)
    try:
        read = functools.partial(of_vocabulary, lowercase=lowercase)
        with local(file) as path:
            tokenizer = (read if file.name == VOCABULARY else tokenizers.Tokenizer.from_file)(str(path))
    except Exception as error:  # the library raises bare Exceptions, and TypeError for [SEP] that is not there
        raise UserError(f"{file} is no vocabulary of a BERT ({first_line(error)}).") from error
    if tokenizer.get_vocab_size() > vocab_size:
        raise UserError(
            f"{folder}: the vocabulary has {tokenizer.get_vocab_size()} tokens and the model {vocab_size} embeddings; "
            "they do not belong together."
        )
    missing = [token for token in SPECIAL if tokenizer.token_to_id(token) is None]
    if missing or tokenizer.token_to_id("[PAD]") != 0:
        problem = f"{', '.join(missing)} missing" if missing else "[PAD] is not token 0"
        raise UserError(f"{folder}: {problem} in the vocabulary; a BERT's has {', '.join(SPECIAL)}.")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def of_vocabulary(path: str | os.PathLike, *, lowercase: bool = True) -> tokenizers.Tokenizer:
    """BERT's tokenizer over a vocab.txt, one token a line."""
    return tokenizers.Tokenizer.from_str(BertWordPieceTokenizer(str(path), lowercase=lowercase).to_str())


def _lowercase(folder: epath.Path) -> bool:
    """BERT's uncased models are the rule; `prajjwal1/bert-tiny` has no tokenizer_config.json at all."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return True
    try:
        return bool(json.loads(file.read_text()).get("do_lower_case", True))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is no JSON object ({first_line(error)}).") from error


def trained(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A lower-casing WordPiece vocabulary of at most `vocab_size` tokens, learned from text.

    The library breaks ties by chance: equal text can give another numbering, and a few other rare tokens. So a
    vocabulary is kept with the model, never made again.
    """
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
    with_ends = BertWordPieceTokenizer(tokenizer.get_vocab(), lowercase=True)  # now [CLS] and [SEP] have numbers
    return tokenizers.Tokenizer.from_str(with_ends.to_str())


def vocabulary(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """The tokens in the order of their numbers."""
    numbers = tokenizer.get_vocab()
    return sorted(numbers, key=numbers.get)


def write_vocabulary(tokenizer: tokenizers.Tokenizer, folder: epath.Path) -> None:
    write_atomically(folder / VOCABULARY, ("\n".join(vocabulary(tokenizer)) + "\n").encode())


def words(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[str]]:
    """Each text as the words that WordPiece cuts: lower-cased, accents stripped, punctuation apart."""
    split, normal = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    return [[word for word, _ in split(normal(text))] for text in texts]
