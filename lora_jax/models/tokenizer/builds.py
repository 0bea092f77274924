"""Tokenizers of the package `tokenizers`, built as transformers builds its fast ones."""

from collections.abc import Mapping
from typing import Any

from lora_jax.errors import ModelError, first_line, shown

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def whole(content: str, where: str) -> Any:
    """tokenizer.json's. Raises ModelError where the package cannot read it."""
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the package raises a bare Exception
        raise ModelError(f"{where} cannot be read ({first_line(error)}); it may need a newer tokenizers.") from error


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


def normalise_as_bert(backend: Any, config: Mapping[str, Any]) -> None:
    """Sets what tokenizer_config.json says of capitals, accents and Chinese; it goes before tokenizer.json."""
    from tokenizers import normalizers

    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        backend.normalizer = _of_bert(config, backend.normalizer.clean_text)


def _of_bert(config: Mapping[str, Any], clean_text: bool = True) -> Any:
    from tokenizers import normalizers

    return normalizers.BertNormalizer(
        clean_text=clean_text,
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )


def begin_with_space(backend: Any, wanted: bool) -> None:
    """Sets whether a text of a byte-level vocabulary begins with a space, which tokenizer_config.json says."""
    from tokenizers import pre_tokenizers

    step = backend.pre_tokenizer
    if isinstance(step, pre_tokenizers.ByteLevel) and step.add_prefix_space != wanted:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=wanted, trim_offsets=step.trim_offsets, use_regex=step.use_regex
        )


def word_pieces(content: str, config: Mapping[str, Any], special: Mapping[str, str], where: str) -> Any:
    """BERT's, of the lines of vocab.txt. Raises ModelError for a word that is there twice, or a special token that is not."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    words = content.removesuffix("\n").split("\n")
    vocabulary = {word.removesuffix("\r"): i for i, word in enumerate(words)}
    if len(vocabulary) < len(words):
        raise ModelError(f"{where}: a word is there twice.")
    names = {name: special.get(f"{name}_token", f"[{name.upper()}]") for name in ("unk", "cls", "sep", "pad", "mask")}
    missing = [text for name, text in names.items() if text not in vocabulary and name != "mask"]
    if missing:
        raise ModelError(f"{where}: {', '.join(missing)} is not in it, which BERT's tokenizer needs.")
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk"]))
    backend.normalizer = _of_bert(config)
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
      kind: "gpt2", "roberta" or "qwen2".
    """
    if kind is None:
        raise ModelError(
            f"{where}: {shown(config.get('tokenizer_class'))} is not known; of vocab.json and merges.txt GPT-2's, RoBERTa's and Qwen2's "
            "tokenizers are built; others need tokenizer.json, which AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes."
        )
    lines = [
        line
        for i, line in enumerate(merges.split("\n"))
        if line.strip() and not (i == 0 and line.startswith("#version"))
    ]
    backend = of_merges(vocabulary, [line.removesuffix("\r") for line in lines], where)
    prefix = config.get("add_prefix_space", False)
    if kind == "qwen2":
        backend.normalizer = _nfc()
        bytewise(backend, QWEN2)
    else:
        bytewise(backend, None, add_prefix_space=prefix)
    mask = special.get("mask_token") if kind == "roberta" else None  # which takes the space before it
    backend.add_special_tokens(
        [text for text in dict.fromkeys(special.values()) if text != mask and backend.token_to_id(text) is not None]
    )
    if kind == "roberta":
        _as_roberta(backend, special, prefix, where)
    return backend


def of_merges(vocabulary: dict[str, int], merges: list[str], where: str, **options: Any) -> Any:
    """A tokenizer that joins pairs in order; what comes before and after is not set."""
    import tokenizers
    from tokenizers import models

    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
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

    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=pattern is None))
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _nfc() -> Any:
    from tokenizers import normalizers

    return normalizers.NFC()


def _as_roberta(backend: Any, special: Mapping[str, str], prefix: bool, where: str) -> None:
    from tokenizers import AddedToken, processors

    if "mask_token" in special:
        backend.add_special_tokens([AddedToken(special["mask_token"], lstrip=True, normalized=False)])
    ends = [
        (special[name], backend.token_to_id(special[name])) for name in ("sep_token", "cls_token") if name in special
    ]
    if len(ends) < 2 or any(id is None for _, id in ends):
        raise ModelError(f"{where}: the tokens that stand around a text, <s> and </s>, are not in its vocabulary.")
    backend.post_processor = processors.RobertaProcessing(ends[0], ends[1], trim_offsets=True, add_prefix_space=prefix)
