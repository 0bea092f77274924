"""S2, part II: BERT on SST-2, by its head alone, by LoRA rank by rank, and in full; and any BERT on sentences of yours.

python experiments/bert_sst2.py --preset=full --bert=prajjwal1/bert-tiny   # Google's BERT-tiny; needs a network once
python experiments/bert_sst2.py                                            # the base and the data that lie at hand
python experiments/bert_sst2.py --job=finetune --bert=bert-base-uncased --train_file=mine.tsv
python experiments/bert_sst2.py --job=predict --bert=bert-base-uncased --train_file=mine.tsv --sentences=lines.txt
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from absl import flags

from experiments.common import cli, devices, main
from experiments.common.flags import define_bert, define_common, define_data, define_finetuning, define_integers
from experiments.data import bert_base, sentences
from experiments.figures import sst2 as figures
from experiments.figures import sst2_finetuning
from experiments.studies import sst2, sst2_jobs

define_common()
define_data("glue/sst2")
define_bert()
define_integers("ranks", None, "LoRA's ranks in the study, e.g. 1,2,4,8")
flags.DEFINE_enum(
    "job", "study", ["study", "finetune", "predict"], "the study; or one model, fine-tuned and then, by the same flags, asked"
)  # fmt: skip
OF_A_JOB = define_finetuning()
flags.DEFINE_string(
    "sentences", None, "text file to classify by `predict`, one sentence a line; without it, a few of ours"
)
FLAGS = flags.FLAGS
NAME, JOB_NAME = "bert_sst2", "bert_sst2_finetune"


def run() -> None:
    {"study": _study, "finetune": _finetune, "predict": _predict}[FLAGS.job]()


def _study() -> None:
    main.refuse((*OF_A_JOB, "sentences"), "with --job=study")
    settings = main.settings_from_flags(sst2.PRESETS, ranks=main.chosen("ranks"), **main.bert_settings())
    inputs = main.load_sst2(FLAGS.bert)
    main.execute(NAME, settings, lambda folder: sst2.run(folder, settings, inputs), figures, data=inputs)


def _finetune() -> None:
    main.refuse(("sentences",), "with --job=finetune, only with predict")
    settings, inputs = _settings_and_inputs()
    main.execute(
        JOB_NAME, settings, lambda folder: sst2_jobs.finetune(folder, settings, inputs), sst2_finetuning, data=inputs
    )
    print(f"merged: {main.run_folder(JOB_NAME, settings, inputs).path / 'merged'}")


def _predict() -> None:
    asked = sst2_jobs.EXAMPLES if FLAGS.sentences is None else sentences.read_lines(FLAGS.sentences)
    settings, inputs = _settings_and_inputs()
    folder = main.run_folder(JOB_NAME, settings, inputs)
    for line in sst2_jobs.predict(folder, settings, inputs.base, asked):
        print(f"{line['label']} {line['probability']:.2f}  {line['sentence']}")
    print(f"predictions: {folder.path / 'predictions.json'}")


def _settings_and_inputs() -> tuple[sst2_jobs.Settings, bert_base.Inputs]:
    """What finetune and predict share, so that the same flags name the same run."""
    main.refuse(("regimes", "ranks", "seeds"), f"with --job={FLAGS.job}, where one model is trained")
    names = ("regime", "rank", "learning_rate", "seed", "epochs", "batch_size", "train_limit", "max_tokens", "dropout")
    settings = main.settings_from_flags(sst2_jobs.PRESETS, **{name: FLAGS[name].value for name in names})
    if not settings.has_adapter:
        main.refuse(("rank",), f"with --regime={settings.regime}, which has no adapter")
    inputs = _inputs()
    return settings.for_base(inputs.base.folder.config), inputs


def _inputs() -> bert_base.Inputs:
    """The user's own sentences, or SST-2."""
    devices.settle()  # as one device, before load_sst2 would make one of each core: there is one member
    if FLAGS.train_file is None:
        main.refuse(("validation_file",), "without --train_file")
        return main.load_sst2(FLAGS.bert)
    main.refuse(("data_dir", "download"), "with --train_file")
    data = sentences.load(FLAGS.train_file, FLAGS.validation_file)
    return bert_base.Inputs(data, bert_base.load(FLAGS.bert))


if __name__ == "__main__":
    cli.run(run)
