"""S2, part II: BERT on SST-2, by its head alone, by LoRA rank by rank, and in full; and any BERT on sentences of yours.

python experiments/bert_sst2.py --preset=full --bert=prajjwal1/bert-tiny   # Google's BERT-tiny; needs a network once
python experiments/bert_sst2.py                                            # the base and the data that lie at hand
python experiments/bert_sst2.py --job=finetune --bert=bert-base-uncased --train_file=mine.tsv
python experiments/bert_sst2.py --job=predict --model=runs/bert_sst2_finetune-1234 --sentences=lines.txt
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import define_enum, define_integers, define_path
from experiments.common.options import by_preset, by_task, define_common, define_data
from experiments.sst2 import classifier_settings as sst2_classifier
from experiments.sst2 import settings as sst2
from experiments.sst2.options import define_bert, define_finetuning

JOBS = {"study": sst2.PRESETS, "finetune": sst2_classifier.PRESETS}
define_enum(
    "job",
    "the study; or one model, fine-tuned and then, by the same flags or by --model, asked",
    ["study", "finetune", "predict"],
    default="study",
)
define_common(f"with --job=study {by_preset(sst2.PRESETS, 'seeds')}")
define_data("glue/sst2", is_mnist=False)
define_bert(
    regimes=f"with --job=study {by_preset(sst2.PRESETS, 'regimes')}",
    **{field: by_task("--job", JOBS, field) for field in ("epochs", "train_limit", "dropout")},
)
define_integers("ranks", f"LoRA's ranks in the study, e.g. 1,2,4,8; {by_preset(sst2.PRESETS, 'ranks')}")
define_finetuning()
define_path("sentences", "text file to classify by `predict`, one sentence a line; by default a few of ours")


def run() -> None:
    from experiments.sst2 import command as bert_sst2

    bert_sst2.run()


if __name__ == "__main__":
    cli.run(run)
