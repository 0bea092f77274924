"""`bert_sst2.py`: the study, or one model that is fine-tuned and asked."""

from absl import flags

from experiments.common import devices, main
from experiments.common.options import FINETUNING_FLAGS
from experiments.data import bert_base, sentences
from experiments.figures import sst2 as figures
from experiments.figures import sst2_finetuning
from experiments.studies import sst2, sst2_jobs

FLAGS = flags.FLAGS
NAME, JOB_NAME = "bert_sst2", "bert_sst2_finetune"


def run() -> None:
    {"study": _study, "finetune": _finetune, "predict": _predict}[FLAGS.job]()


def _study() -> None:
    main.refuse((*FINETUNING_FLAGS, "sentences"), "with --job=study")
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
