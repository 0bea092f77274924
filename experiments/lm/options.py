"""The flags that name texts and questions."""

from experiments.common.flags import define_path, define_paths, define_text

TEXT_FLAGS = ("corpus", "field", "questions", "medical")


def define_texts() -> None:
    """--corpus, --field, --questions, --medical."""
    define_paths(
        "corpus", "text files to pretrain on: .txt (a blank line ends a document) or .jsonl, also .gz; by default docstrings of installed packages"
    )  # fmt: skip
    define_text("field", "name of the field that holds the text in a line of .jsonl", default="text")
    define_path(
        "questions",
        "questions and answers for the study: Alpaca's .json or MedQuAD's .jsonl, also .gz; by default questions about docstrings",
    )
    define_path(
        "medical",
        "medical questions and answers for the study, in the same formats; by default made of ICD-10-CM's terms",
    )
