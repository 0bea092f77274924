"""What the config.json of a BERT, RoBERTa or DistilBERT says: sizes, the head, the words of its labels."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import require_fields
from lora_jax.models import config_file
from lora_jax.models.bert_config import FAMILIES, BertConfig, Family

HEADS = {"cls": "ForMaskedLM", "classifier": "ForSequenceClassification"}  # parameters -> how transformers' class ends
READ_AS = {"ForMaskedLM": "cls", "ForPreTraining": "cls", "ForSequenceClassification": "classifier"}
OTHER_HEADS = re.compile(r".*For(TokenClassification|MultipleChoice)")  # their tensors are called as a classifier's
# What the parameters say, not the folder that they came from.
OWN = {"architectures", "tie_word_embeddings", "torch_dtype", "dtype", "transformers_version", "_name_or_path"}
OF_CLASSIFIER = {"id2label", "label2id", "num_labels"}
PLAIN = {
    "position_embedding_type": ("absolute", "absolute positions"),
    "is_decoder": (False, "an encoder that is no decoder"),
}


def config(where: epath.Path, values: dict[str, Any]) -> BertConfig:
    """The BertConfig of what `where`/config.json says; dropouts and the like default to transformers'.

    Raises:
      ModelError: for another architecture (it names those that are there), relative positions, or values that cannot be.
    """
    file = where / config_file.NAME
    model_type = config_file.require_kind(file, values, tuple(FAMILIES), assumed="bert")
    family = FAMILIES[model_type]
    require_fields(values, str(file), _fields(family))
    for name, (plain, what) in PLAIN.items():
        if values.get(name) not in (None, plain):
            raise ModelError(
                f"{file}: {name} is {values[name]!r}; relative positions and decoders are not supported, only {what}."
            )
    words = {
        field.name: family.word(field.name)
        for field in dataclasses.fields(BertConfig)
        if field.name not in family.fixed
    }
    sizes = {field.name for field in dataclasses.fields(BertConfig) if field.type is int} - {"type_vocab_size"}
    missing = sorted(words[name] for name in sizes if words[name] not in values)
    if missing:
        raise ModelError(f"{file}: {', '.join(missing)} missing; the config.json of a {model_type} gives its sizes.")
    given = {name: values[word] for name, word in words.items() if word in values}
    try:
        return BertConfig(**{**family.defaults, **family.fixed, **given, "model_type": model_type})
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


def _fields(family: Family) -> dict[str, Any]:
    fields = {family.word(f.name): f.type for f in dataclasses.fields(BertConfig) if f.name not in family.fixed}
    return {
        **fields,
        "model_type": str | None,
        "pad_token_id": int if family.counts_positions else int | None,
        "position_embedding_type": str | None,
        "is_decoder": bool | None,
        "architectures": list[str] | None,
        "num_labels": int | None,
        "id2label": dict | None,
    }


def is_of_other_head(values: Mapping[str, Any]) -> bool:
    """Whether the weights have a head that is called like a classifier of sentences, and is none."""
    return any(OTHER_HEADS.fullmatch(name) for name in values.get("architectures") or ())


def head(values: Mapping[str, Any], params: Mapping[str, Any]) -> str | None:
    """The head of the model that config.json names, "classifier" or "cls"; that of the parameters where it names none; None for the encoder alone."""
    named = values.get("architectures") or ()
    if not named:
        return next((head for head in ("classifier", "cls") if head in params), None)
    return next((head for end, head in READ_AS.items() if named[0].endswith(end)), None)


def labels(where: epath.Path, values: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The words of id2label in order, or None without it.

    Raises:
      ModelError: where its keys are not 0, 1 ...
    """
    said = values.get("id2label")
    if said is None:
        return None
    file = where / config_file.NAME
    require_fields({"id2label": said}, str(file), {"id2label": dict[str, str | int | float]})
    if {str(i) for i in range(len(said))} != said.keys():
        raise ModelError(f"{file}: the keys of id2label are {', '.join(sorted(said))[:100]}; they must be 0, 1 ...")
    return tuple(str(said[str(i)]) for i in range(len(said)))


def require_labels(where: epath.Path, values: Mapping[str, Any], count: int) -> None:
    """Raises ModelError where config.json says another number of labels than the classifier has."""
    words = labels(where, values)
    said = values.get("num_labels") if words is None else len(words)
    if said not in (None, count):
        name = "num_labels" if words is None else "id2label"
        raise ModelError(
            f"{where}: the classifier has {count} labels, and {name} of config.json {said}; name as many there as the head has."
        )


def written(
    config: BertConfig,
    params: Mapping[str, Any],
    about: Mapping[str, Any],
    count: int | None,
    words: Sequence[str] | None,
) -> dict[str, Any]:
    """What config.json says of these parameters, whose classifier has `count` labels; what `about` says else is kept."""
    family = config.family
    fields = dataclasses.asdict(config)
    if family.defaults.get("classifier_dropout") is not None:  # it has no word for "as the encoder's"
        fields["classifier_dropout"] = config.classifier_rate
    own = OWN if count is None else OWN | OF_CLASSIFIER
    said = {key: value for key, value in about.items() if key not in own}
    said |= {family.word(name): value for name, value in fields.items() if name not in family.fixed}
    end = next((end for head, end in HEADS.items() if head in params), "Model")
    said["architectures"] = [f"{family.classes}{end}"]
    if count is not None:
        said |= _label_words(count, words if words is not None else _kept_words(about, count))
    return said


def _kept_words(values: Mapping[str, Any], count: int) -> Sequence[str]:
    words = labels(epath.Path("values"), values)
    return words if words is not None and len(words) == count else [f"LABEL_{i}" for i in range(count)]


def _label_words(count: int, labels: Sequence[str]) -> dict[str, Any]:
    words = list(labels)
    if len(words) != count or len(set(words)) < count:
        raise ModelError(f"labels are {words}; the classifier has {count}, and each has a word of its own.")
    return {"id2label": dict(enumerate(words)), "label2id": {word: i for i, word in enumerate(words)}}
