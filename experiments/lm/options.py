"""The flags that name texts and questions."""

from experiments.common.flags import define_path, define_paths, define_text

TEXT_FLAGS = ("corpus", "field", "questions", "medical")


def define_texts() -> None:
    """--corpus, --field, --questions, --medical."""
    define_paths(
        "corpus", "text files to pretrain on: .txt (documents are apart by blank lines), .jsonl, also .gz; by default docstrings installed here"
    )  # fmt: skip
    define_text("field", "where a line of .jsonl has its text", default="text")
    define_path("questions", "Alpaca's .json or MedQuAD's .jsonl, also .gz; by default about docstrings")
    define_path("medical", "the same of medicine, for the study; by default ICD-10-CM's terms")
