"""Tokenizers of the package `tokenizers`, built as transformers builds its fast ones."""

from collections.abc import Mapping
from typing import Any

from lora_jax.errors import ModelError, first_line, shown

LLAMA_LIKE = (
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
)  # whose class, not tokenizer.json, says what stands around a text
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_PAIRS = {  # tokenizer_class, without "Fast", or model_type -> which of them it is
    **dict.fromkeys(("GPT2Tokenizer", "gpt2", "llama", "PreTrainedTokenizer", None), "gpt2"),
    **dict.fromkeys(("RobertaTokenizer", "roberta"), "roberta"),
    **dict.fromkeys(("Qwen2Tokenizer", "qwen2", "qwen3"), "qwen2"),
}


def whole(content: str, config: Mapping[str, Any], special: Mapping[str, str], where: str) -> Any:
    """tokenizer.json's. Raises ModelError where the package cannot read it."""
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the package raises a bare Exception
        raise ModelError(f"{where} cannot be read ({first_line(error)}); it may need a newer tokenizers.") from error
    if str(config.get("tokenizer_class")).removesuffix("Fast") in LLAMA_LIKE:
        surround(backend, config.get("add_bos_token", True), config.get("add_eos_token", False), special, where)
    return backend


def surround(backend: Any, bos: bool | None, eos: bool | None, special: Mapping[str, str], where: str) -> None:
    """Writes the beginning and the end of a text, where they are wanted, around what is encoded."""
    from tokenizers import processors

    before = [special.get("bos_token")] if bos else []
    after = [special.get("eos_token")] if eos else []
    tokens = [(token, backend.token_to_id(token)) for token in before + after if token is not None]
    if len(tokens) < len(before + after) or any(id is None for _, id in tokens):
        raise ModelError(f"{where}: the token that begins or ends a text is to be added, and is not in the vocabulary.")
    single = " ".join([*(f"{token}:0" for token in before), "$A:0", *(f"{token}:0" for token in after)])
    pair = single + " " + single.replace("$A", "$B").replace(":0", ":1")
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def word_pieces(content: str, config: Mapping[str, Any], special: Mapping[str, str], where: str) -> Any:
    """BERT's, of the lines of vocab.txt. Raises ModelError for a word that is there twice, or a special token that is not."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    words = content.removesuffix("\n").split("\n")
    vocabulary = {word.removesuffix("\r"): i for i, word in enumerate(words)}
    if len(vocabulary) < len(words):
        raise ModelError(f"{where}: a word is there twice.")
    names = {name: special.get(f"{name}_token", f"[{name.upper()}]") for name in ("unk", "cls", "sep", "pad", "mask")}
    missing = [text for name, text in names.items() if text not in vocabulary and name != "mask"]
    if missing:
        raise ModelError(f"{where}: {', '.join(missing)} is not in it, which BERT's tokenizer needs.")
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([text for text in names.values() if text in vocabulary])
    cls, sep = names["cls"], names["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    return backend


def byte_pairs(
    vocabulary: dict[str, int],
    merges: str,
    kind: str | None,
    config: Mapping[str, Any],
    special: Mapping[str, str],
    where: str,
) -> Any:
    """GPT-2's, RoBERTa's or Qwen2's, of vocab.json and merges.txt.

    Args:
      kind: tokenizer_class of tokenizer_config.json, or model_type of config.json.
    """
    plain = kind.removesuffix("Fast") if kind else None
    if plain not in BYTE_PAIRS:
        raise ModelError(
            f"{where}: {shown(kind)} is not known; of vocab.json and merges.txt GPT-2's, RoBERTa's and Qwen2's are built, of others "
            "tokenizer.json is needed (AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it)."
        )
    lines = [
        line
        for i, line in enumerate(merges.split("\n"))
        if line.strip() and not (i == 0 and line.startswith("#version"))
    ]
    backend = of_merges(vocabulary, [line.removesuffix("\r") for line in lines], where)
    return {"gpt2": _gpt2, "roberta": _roberta, "qwen2": _qwen2}[BYTE_PAIRS[plain]](backend, config, special, where)


def of_merges(vocabulary: dict[str, int], merges: list[str], where: str, **options: Any) -> Any:
    """A tokenizer that joins pairs in order; what comes before and after is not set."""
    import tokenizers
    from tokenizers import models

    pairs = [tuple(merge.split(" ")) for merge in merges]
    odd = next((merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2), None)
    if odd is not None:
        raise ModelError(f"{where}: the merge {odd!r} is not a pair.")
    try:
        return tokenizers.Tokenizer(models.BPE(vocabulary, pairs, **options))
    except Exception as error:  # the package raises a bare Exception; a merge of what is no token, an id below zero
        raise ModelError(f"{where}: its vocabulary cannot be used ({first_line(error)}).") from error


def bytewise(backend: Any, pattern: str | None, *, digits: bool = False, add_prefix_space: bool = False) -> Any:
    """Each byte as a letter, within words by `pattern` (None: GPT-2's), each digit alone where told."""
    from tokenizers import Regex, decoders, pre_tokenizers, processors

    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=pattern is None))
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _gpt2(backend: Any, config: Mapping[str, Any], special: Mapping[str, str], where: str) -> Any:
    bytewise(backend, None, add_prefix_space=config.get("add_prefix_space", False))
    backend.add_special_tokens(
        _there(
            backend, special, {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        )
    )
    return backend


def _qwen2(backend: Any, config: Mapping[str, Any], special: Mapping[str, str], where: str) -> Any:
    from tokenizers import normalizers

    backend.normalizer = normalizers.NFC()
    bytewise(backend, QWEN2)
    backend.add_special_tokens(_there(backend, special, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}))
    return backend


def _roberta(backend: Any, config: Mapping[str, Any], special: Mapping[str, str], where: str) -> Any:
    from tokenizers import AddedToken, processors

    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    tokens = {name: special.get(f"{name}_token", text) for name, text in names.items()}
    prefix = config.get("add_prefix_space", False)
    bytewise(backend, None, add_prefix_space=prefix)
    there = {name: backend.token_to_id(text) for name, text in tokens.items()}
    missing = [tokens[name] for name in ("cls", "sep", "unk", "pad") if there[name] is None]
    if missing:
        raise ModelError(f"{where}: {', '.join(missing)} is not in its vocabulary, which RoBERTa's tokenizer needs.")
    backend.add_special_tokens([text for name, text in tokens.items() if name != "mask" and there[name] is not None])
    if there["mask"] is not None:
        backend.add_special_tokens([AddedToken(tokens["mask"], lstrip=True, normalized=False)])
    pair = [(tokens[name], there[name]) for name in ("sep", "cls")]
    backend.post_processor = processors.RobertaProcessing(*pair, trim_offsets=True, add_prefix_space=prefix)
    return backend


def _there(backend: Any, special: Mapping[str, str], defaults: Mapping[str, str]) -> list[str]:
    """The texts of special tokens that the vocabulary has."""
    found = {**defaults, **special}
    return [text for text in dict.fromkeys(found.values()) if backend.token_to_id(text) is not None]
