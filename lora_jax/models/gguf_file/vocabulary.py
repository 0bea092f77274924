"""The tokenizer in a GGUF file's metadata."""

import collections
import dataclasses
import json
from typing import Any, NamedTuple

from lora_jax.errors import ModelError, shown
from lora_jax.models.gguf_file.settings import Metadata
from lora_jax.models.tokenizer import Tokenizer, builds
from lora_jax.models.tokenizer.text import require_package

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # a space, as SentencePiece writes it
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Split(NamedTuple):
    """How a text is cut into words: by `pattern` (None: GPT-2's), each digit alone, whole words before their parts; whether bos is added."""

    pattern: str | None = None
    digits: bool = False
    whole_words: bool = False
    bos: bool = False
    nfc: bool = False


SPLITS = {  # tokenizer.ggml.pre
    "gpt-2": Split(),
    "gpt2": Split(),
    "smollm": Split(digits=True),
    "starcoder": Split(digits=True),
    "llama-bpe": Split(LLAMA3, whole_words=True, bos=True),
    "llama3": Split(LLAMA3, whole_words=True, bos=True),
    "llama-v3": Split(LLAMA3, whole_words=True, bos=True),
    "qwen2": Split(builds.QWEN2, nfc=True),
    "deepseek-r1-qwen": Split(builds.QWEN2, nfc=True),
    "tekken": Split(TEKKEN, whole_words=True, bos=True),
}


def tokenizer_of(metadata: Metadata) -> Tokenizer | None:
    """The tokenizer, or None where the file has none.

    Raises:
      ModelError: for a kind that is not known (put the model's tokenizer.json beside the file), or a vocabulary that cannot be.
    """
    kind = metadata.get("tokenizer.ggml.model", str)
    if kind in (None, "no_vocab", "none"):
        return None
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"{metadata.where}: a tokenizer of the kind {shown(kind)} is not known; put the model's tokenizer.json beside the file."
        )
    require_package()
    tokens, types = _tokens(metadata)
    if kind == "gpt2":
        backend, bos = _byte_pairs(metadata, tokens, types)
    else:
        backend, bos = _sentence_pieces(metadata, tokens, types), True
    _add(backend, tokens, types)
    special = {
        f"{name}_token": tokens[id] for name in ("bos", "eos") if (id := _id(metadata, tokens, name)) is not None
    }
    bos = bool(metadata.get("tokenizer.ggml.add_bos_token", bool, bos))
    eos = bool(metadata.get("tokenizer.ggml.add_eos_token", bool, False))
    if bos or eos:
        builds.surround(
            backend, bos and "bos_token" in special, eos and "eos_token" in special, special, metadata.where
        )
    return completed(Tokenizer(backend, where=metadata.where), metadata)


def completed(tokenizer: Tokenizer, metadata: Metadata) -> Tokenizer:
    """A tokenizer with the special tokens and the chat template that a GGUF file names, where it has none of its own."""
    size = tokenizer.vocab_size
    ids = {
        ours: metadata.get(f"tokenizer.ggml.{theirs}_token_id", int)
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
        if getattr(tokenizer, ours) is None
    }
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("eot", "eom")]
    for id in (*ids.values(), *ends):
        if id is not None and not 0 <= id < size:
            raise ModelError(f"{metadata.where}: {id} is named as a special token, and the tokenizer has {size:,}.")
    template = (
        tokenizer.chat_template if tokenizer.chat_template is not None else metadata.get("tokenizer.chat_template", str)
    )
    full = dataclasses.replace(
        tokenizer, **ids, ends=(*tokenizer.ends, *(id for id in ends if id is not None)), chat_template=template
    )
    return full if full.files else dataclasses.replace(full, files=_files(full))


def _files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """What a Hugging Face folder has of this tokenizer."""
    names = {f"{name}_token": getattr(tokenizer, name) for name in ("bos", "eos", "pad", "unk")}
    said: dict[str, Any] = {name: tokenizer.backend.id_to_token(id) for name, id in names.items() if id is not None}
    said |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    said |= {} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template}
    return {
        "tokenizer.json": tokenizer.backend.to_str().encode(),
        "tokenizer_config.json": json.dumps(said, indent=1, sort_keys=True).encode(),
    }


def _tokens(metadata: Metadata) -> tuple[list[str], list[int]]:
    tokens = metadata.get("tokenizer.ggml.tokens", list[str])
    types = metadata.get("tokenizer.ggml.token_type", list[int]) or []
    if not tokens or len(types) != len(tokens):
        raise ModelError(f"{metadata.where}: its tokenizer has {len(tokens or ())} tokens, and types of {len(types)}.")
    if len(set(tokens)) < len(tokens):
        twice = max(tokens, key=collections.Counter(tokens).__getitem__)
        raise ModelError(
            f"{metadata.where}: its tokenizer has the token {twice!r} twice; put the model's tokenizer.json beside the file."
        )
    return tokens, types


def _vocabulary(tokens: list[str], types: list[int]) -> dict[str, int]:
    """Without what only fills the vocabulary up to the table's size."""
    return {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if not (kind == UNUSED and token == f"[PAD{i}]")
    }


def _byte_pairs(metadata: Metadata, tokens: list[str], types: list[int]) -> tuple[Any, bool]:
    from tokenizers import normalizers

    pre, merges = metadata.get("tokenizer.ggml.pre", str), metadata.get("tokenizer.ggml.merges", list[str])
    if pre not in SPLITS:
        raise ModelError(
            f"{metadata.where}: its tokenizer cuts words by the rule {shown(pre)}, which is not known ({', '.join(SPLITS)} are); "
            "put the model's tokenizer.json beside the file."
        )
    if merges is None:
        raise ModelError(f"{metadata.where}: its tokenizer has no merges.")
    split = SPLITS[pre]
    backend = builds.of_merges(_vocabulary(tokens, types), merges, metadata.where, ignore_merges=split.whole_words)
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    return builds.bytewise(backend, split.pattern, digits=split.digits), split.bos


def _sentence_pieces(metadata: Metadata, tokens: list[str], types: list[int]) -> Any:
    """SentencePiece's BPE, which joins the pair whose whole has the largest score, as pairs in order; unknown characters as bytes."""
    from tokenizers import decoders, normalizers

    scores = metadata.get("tokenizer.ggml.scores", list[float])
    if scores is None or len(scores) != len(tokens):
        raise ModelError(
            f"{metadata.where}: its tokenizer has {len(tokens)} tokens, and scores of {len(scores or ())}."
        )
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    merges = _merges(tokens, types, scores)
    backend = builds.of_merges(
        _vocabulary(tokens, types), merges, metadata.where, unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", bool, True)
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return backend


def _merges(tokens: list[str], types: list[int], scores: list[float]) -> list[str]:
    """All pairs of pieces whose whole is a piece, the best whole first; of one whole, the parts that are pieces earliest."""
    pieces = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in (NORMAL, UNUSED)}
    found = []
    for token, i in pieces.items():
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        found += [(-scores[i], i, pieces[a], pieces[b], f"{a} {b}") for a, b in cuts if a in pieces and b in pieces]
    return [merge for *_, merge in sorted(found)]


def _add(backend: Any, tokens: list[str], types: list[int]) -> None:
    """Special tokens, and those that a user added, are whole wherever they stand."""
    from tokenizers import AddedToken

    for kinds, add, special in (
        ((CONTROL, UNKNOWN), backend.add_special_tokens, True),
        ((USER,), backend.add_tokens, False),
    ):
        add(
            [
                AddedToken(token, normalized=False, special=special)
                for token, kind in zip(tokens, types, strict=True)
                if kind in kinds
            ]
        )


def _id(metadata: Metadata, tokens: list[str], name: str) -> int | None:
    id = metadata.get(f"tokenizer.ggml.{name}_token_id", int)
    if id is not None and not 0 <= id < len(tokens):
        raise ModelError(f"{metadata.where}: {name} is token {id}, and there are {len(tokens):,}.")
    return id
