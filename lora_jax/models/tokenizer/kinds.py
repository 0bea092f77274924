"""What the classes of transformers' tokenizers have of their own, where a folder's files do not say it."""

from typing import NamedTuple


class Kind(NamedTuple):
    """Special tokens; how a vocabulary of pairs is built; whether the class, not tokenizer.json, says what stands around a text."""

    special: dict[str, str]
    pairs: str | None = None
    surrounds: bool = False


ALL = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
END = "<|endoftext|>"
PLAIN = Kind({}, "gpt2")
BERT = Kind(
    {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
)
ROBERTA = Kind(dict(zip(ALL, ("<s>", "</s>", "<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True)), "roberta")
XLM = ROBERTA._replace(pairs=None)  # whose vocabulary is SentencePiece's
GPT2 = Kind({"bos_token": END, "eos_token": END, "unk_token": END}, "gpt2")
QWEN2 = Kind({"eos_token": END, "pad_token": END, "unk_token": END}, "qwen2")
LLAMA = Kind({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, None, True)
GEMMA = Kind({"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}, None, True)
BY_CLASS = {
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer"), BERT),
    "RobertaTokenizer": ROBERTA,
    "GPT2Tokenizer": GPT2,
    "Qwen2Tokenizer": QWEN2,
    **dict.fromkeys(("XLMRobertaTokenizer", "CamembertTokenizer"), XLM),
    "GPTNeoXTokenizer": GPT2._replace(pairs=None),
    **dict.fromkeys(("LlamaTokenizer", "CodeLlamaTokenizer"), LLAMA),
    "GemmaTokenizer": GEMMA,
    "PreTrainedTokenizer": PLAIN,
}
BY_MODEL = {  # where no class is named
    **dict.fromkeys(("bert", "distilbert"), BERT),
    "roberta": ROBERTA,
    **dict.fromkeys(("xlm-roberta", "camembert"), XLM),
    "gpt2": GPT2,
    **dict.fromkeys(("llama", "mistral"), LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), GEMMA),
    **dict.fromkeys(("qwen2", "qwen3"), QWEN2),
}


def kind(tokenizer_class: str | None, model_type: str | None) -> Kind:
    """By tokenizer_class of tokenizer_config.json or config.json, or else its model_type; one of an unknown class has nothing of its own.

    >>> kind("Qwen2TokenizerFast", None).special["eos_token"], kind("CLIPTokenizer", "clip").pairs
    ('<|endoftext|>', None)
    """
    if tokenizer_class is None:
        return BY_MODEL.get(model_type or "", PLAIN)
    return BY_CLASS.get(tokenizer_class.removesuffix("Fast"), Kind({}))
