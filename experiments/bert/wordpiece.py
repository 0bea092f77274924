"""WordPiece tokenizers (Hugging Face's `tokenizers`): of a model's folder, or trained on text."""

import collections
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import tokenizers
from etils import epath
from tokenizers.implementations import BertWordPieceTokenizer

from experiments.common.errors import UserError
from lora_jax.errors import first_line
from lora_jax.files import local, parse, read_json, require_fields

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
            _require_once(path)
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


def _require_once(path: pathlib.Path) -> None:
    """Raises UserError for a word that is there twice: it would have two numbers, and readers differ in which they take."""
    if path.name != VOCABULARY:
        parse(path.read_bytes(), path.name)
        return
    words = collections.Counter(path.read_text(encoding="utf-8").split("\n"))
    twice = next((word for word, count in words.items() if word.strip() and count > 1), None)
    if twice is not None:
        raise UserError(f"{twice!r} is there twice")


def of_vocabulary(path: str | os.PathLike, *, lowercase: bool = True) -> tokenizers.Tokenizer:
    """BERT's tokenizer over a vocab.txt, one token a line."""
    return tokenizers.Tokenizer.from_str(BertWordPieceTokenizer(str(path), lowercase=lowercase).to_str())


def _lowercase(folder: epath.Path) -> bool:
    """BERT's uncased models are the rule; `prajjwal1/bert-tiny` has no tokenizer_config.json at all."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return True
    said = require_fields(read_json(file, error=UserError), str(file), {"do_lower_case": bool}, error=UserError)
    return said.get("do_lower_case", True)


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


def content(words: Sequence[str]) -> bytes:
    """Of a file vocab.txt."""
    return ("\n".join(words) + "\n").encode()


def of_words(words: Sequence[str]) -> tokenizers.Tokenizer:
    """BERT's tokenizer over a vocabulary, lower-casing."""
    numbers = {word: number for number, word in enumerate(words)}
    return tokenizers.Tokenizer.from_str(BertWordPieceTokenizer(numbers, lowercase=True).to_str())


def words(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[str]]:
    """Each text as the words that WordPiece cuts: lower-cased, accents stripped, punctuation apart."""
    split, normal = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    return [[word for word, _ in split(normal(text))] for text in texts]
