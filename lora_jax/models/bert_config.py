"""What differs between BERT, RoBERTa and DistilBERT: sizes, rates, and what a model_type says beside them.

| | BERT | RoBERTa, XLM-RoBERTa, CamemBERT | DistilBERT |
|---|---|---|---|
| a token's position | its place in the row | pad_token_id + how many tokens up to it are no padding | its place in the row |
| token types | `type_vocab_size` | `type_vocab_size` (1) | none |
| a classifier reads the first token through | the pooler (dense, tanh) | dense, tanh of its own | dense, ReLU of its own |
| the pooler | in every model | in the encoder alone | nowhere |
| masked-LM head | `hidden_act` | GELU | `hidden_act` |
| LayerNorm's epsilon | `layer_norm_eps` | `layer_norm_eps` | 1e-12 |
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from lora_jax.errors import ModelError, shown
from lora_jax.models import activations
from lora_jax.models.checks import is_number, require_positive, require_size

ACTIVATIONS = {name: function for name, function in activations.ACTIVATIONS.items() if name != "silu"}  # no encoder's


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """What a model_type says beside sizes."""

    classes: str  # how the names of transformers' classes begin
    prefix: str  # what torch's models with a head call the encoder
    pad_token_id: int  # where config.json does not say
    counts_positions: bool = False  # from pad_token_id + 1 on, and padding has that of pad_token_id
    pools_first: bool = False  # models with a head have the pooler, and classifiers read it
    has_pooler: bool = True  # the encoder alone has one
    head_act: str | None = None  # of the masked-LM head; None is hidden_act
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields that can have this value alone
    words: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # field -> its name in config.json, where that is another
    defaults: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # where config.json does not say, and not BertConfig's

    def word(self, field: str) -> str:
        """What config.json calls a field of BertConfig.

        >>> FAMILIES["distilbert"].word("hidden_size"), FAMILIES["bert"].word("hidden_size")
        ('dim', 'hidden_size')
        """
        return self.words.get(field, field)


_ROBERTA = Family("Roberta", "roberta", 1, counts_positions=True, head_act="gelu")
FAMILIES = {
    "bert": Family("Bert", "bert", 0, pools_first=True),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(_ROBERTA, classes="XLMRoberta"),
    "camembert": dataclasses.replace(_ROBERTA, classes="Camembert"),
    "distilbert": Family(
        "DistilBert",
        "distilbert",
        0,
        has_pooler=False,
        fixed={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
        words={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
        },
        defaults={"classifier_dropout": 0.2},
    ),
}


@typing.no_type_check  # it validates itself, and says more than a type checker
@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes and rates, named as in the config.json of a BERT; the defaults are BERT-tiny's (Turc et al. 2019).

    Raises:
      ModelError: for sizes or rates that cannot be, an activation there is no code for, or a model_type that is not in FAMILIES.

    >>> BertConfig(model_type="roberta", type_vocab_size=1).pad_token_id
    1
    """

    vocab_size: int = 30522
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # of the classifier; None is hidden_dropout_prob
    model_type: str = "bert"
    pad_token_id: int | None = None  # None is the family's

    def __post_init__(self):
        if not isinstance(self.model_type, str) or self.model_type not in FAMILIES:
            raise ModelError(f"BertConfig: model_type is {shown(self.model_type)}; there are {', '.join(FAMILIES)}.")
        if self.pad_token_id is None:
            object.__setattr__(self, "pad_token_id", self.family.pad_token_id)
        self._require_sizes()
        self._require_rates()
        for name, value in self.family.fixed.items():
            if getattr(self, name) != value:
                raise ModelError(
                    f"BertConfig: {name} is {getattr(self, name)!r}; a {self.model_type} has {value!r} and no other."
                )
        if self.family.counts_positions and not 0 <= self.pad_token_id < self.vocab_size:
            raise ModelError(
                f"BertConfig: pad_token_id is {self.pad_token_id}; positions of a {self.model_type} are counted from it, so that it must be a token, "
                f"0 to {self.vocab_size - 1}."
            )
        if self.max_tokens < 1:
            raise ModelError(
                f"BertConfig: max_position_embeddings is {self.max_position_embeddings}; a {self.model_type} whose pad_token_id is "
                f"{self.pad_token_id} has its first position at {self.pad_token_id + 1}."
            )

    def _require_sizes(self):
        sizes = [field.name for field in dataclasses.fields(self) if field.type is int]
        for name in (name for name in sizes if name not in self.family.fixed):
            require_size("BertConfig", name, getattr(self, name))
        if isinstance(self.pad_token_id, bool) or not isinstance(self.pad_token_id, int):
            raise ModelError(f"BertConfig: pad_token_id is {shown(self.pad_token_id)}; it must be an integer.")
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"BertConfig: hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                f"{self.num_attention_heads}."
            )
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACTIVATIONS:
            raise ModelError(
                f"BertConfig: hidden_act is {self.hidden_act!r}; there is code for {', '.join(sorted(ACTIVATIONS))}."
            )

    def _require_rates(self):
        rates = ["hidden_dropout_prob", "attention_probs_dropout_prob"]
        for name in rates + ["classifier_dropout"] * (self.classifier_dropout is not None):
            if not (is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise ModelError(f"BertConfig: {name} is {getattr(self, name)!r}; it must be a number in [0, 1).")
        require_positive("BertConfig", "layer_norm_eps", self.layer_norm_eps)

    @property
    def family(self) -> Family:
        """What its model_type says beside sizes."""
        return FAMILIES[self.model_type]

    @property
    def max_tokens(self) -> int:
        """How many tokens a row can have.

        >>> BertConfig(max_position_embeddings=514, model_type="roberta").max_tokens
        512
        """
        taken = self.pad_token_id + 1 if self.family.counts_positions else 0
        return self.max_position_embeddings - taken

    @property
    def classifier_rate(self) -> float:
        """The dropout of the classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    def with_dropout(self, rate: float) -> "BertConfig":
        """The same sizes, with `rate` at every dropout.

        >>> BertConfig(classifier_dropout=0.3).with_dropout(0.0).classifier_dropout is None
        True
        """
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=None
        )
