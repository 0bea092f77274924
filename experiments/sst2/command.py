"""`bert_sst2.py`: the study, or one model that is fine-tuned and asked."""

from typing import Any

from absl import flags
from etils import epath

from experiments.bert import base as bert_base
from experiments.common import devices, main
from experiments.common.errors import UserError
from experiments.data import sst2 as sst2_data
from experiments.data.sst2 import Sst2
from experiments.sst2 import classifier_figures, figures, jobs, sentences, study
from experiments.sst2 import inputs as study_inputs
from experiments.sst2.options import FINETUNING_FLAGS
from lora_jax.errors import printable

FLAGS = flags.FLAGS
SETTINGS = ("regime", "rank", "learning_rate", "seed", "epochs", "batch_size", "train_limit", "max_tokens", "dropout")
NAME, JOB_NAME = "bert_sst2", jobs.RUN


def run() -> None:
    {"study": _study, "finetune": _finetune, "predict": _predict}[FLAGS.job]()


def _study() -> None:
    main.refuse((*FINETUNING_FLAGS, "sentences"), "with --job=study")
    settings = main.settings_from_flags(study_inputs.presets(), ranks=main.chosen("ranks"), **study_inputs.chosen())
    inputs = study_inputs.load(FLAGS.bert)
    main.execute(NAME, settings, lambda folder: study.run(folder, settings, inputs), figures, data=inputs)


def _finetune() -> None:
    main.refuse(("sentences", "model"), "with --job=finetune, only with predict")
    settings, inputs = _settings_and_inputs()
    summary = main.execute(
        JOB_NAME, settings, lambda folder: jobs.finetune(folder, settings, inputs), classifier_figures, data=inputs
    )
    path = main.run_folder(JOB_NAME, settings, inputs).path
    print(f"merged: {path / 'merged'}")
    if summary.get("peft"):
        print(f"peft: {path / 'peft'}")
    print(f"model: {path}  (--job=predict --model={path} asks it)")


def _predict() -> None:
    asked = (
        jobs.EXAMPLES if FLAGS.sentences is None else sentences.read_lines(FLAGS.sentences, text_field=FLAGS.text_field)
    )
    if FLAGS.model is not None:
        path = epath.Path(FLAGS.model)
        _require_agreement(path, jobs.finished(path))
        predictions = jobs.predict_by(path, asked)
    else:
        settings, inputs = _settings_and_inputs()
        folder = main.run_folder(JOB_NAME, settings, inputs)
        path, predictions = folder.path, jobs.predict(folder, settings, inputs.base, asked)
    for line in predictions:
        print(f"{line['label']} {line['probability']:.2f}  {printable(' '.join(line['sentence'].splitlines()))}")
    print(f"predictions: {path / 'predictions.json'}")


def _require_agreement(path: epath.Path, summary: dict[str, Any]) -> None:
    """UserError for a flag that says something else than the run, which knows how it was trained; those that repeat it are no matter."""
    main.refuse(("regimes", "ranks", "seeds", "mesh"), "with --model, which knows how it was trained")
    devices.settle()
    for name in SETTINGS:
        given, trained = FLAGS[name].value, summary["settings"].get(name)
        if given is not None and given != trained:
            raise UserError(
                f"--{name}={given} contradicts --model={path}, whose run has {trained}; leave it out, or name another run."
            )
    if any(FLAGS[name].present for name in ("train_file", "validation_file", "label_field", "data_dir", "download")):
        _require_same("the sentences", _data().checksum, summary["data"].get("sha256"), path)
    if FLAGS.bert is not None:
        base = summary["data"].get("base", {}).get("sha256")
        _require_same(f"--bert={FLAGS.bert}", bert_base.load(FLAGS.bert).checksum, base, path)


def _require_same(what: str, given: str, trained: str | None, path: epath.Path) -> None:
    if given != trained:
        raise UserError(
            f"{what} that the flags name are not those of --model={path}; leave the flags out, or name another run."
        )


def _settings_and_inputs() -> tuple[jobs.Settings, study_inputs.Inputs]:
    """What finetune and predict share, so that the same flags name the same run."""
    main.refuse(("regimes", "ranks", "seeds"), f"with --job={FLAGS.job}, where one model is trained")
    settings = main.settings_from_flags(jobs.PRESETS, **{name: FLAGS[name].value for name in SETTINGS})
    if not settings.has_adapter:
        main.refuse(("rank",), f"with --regime={settings.regime}, which has no adapter")
    inputs = _inputs()
    return settings.for_base(inputs.base.folder.config), inputs


def _inputs() -> study_inputs.Inputs:
    devices.settle()  # as one device, before inputs.load would make one of each core: there is one member
    base = bert_base.load(FLAGS.bert)
    return study_inputs.Inputs(_data(), base)


def _data() -> Sst2:
    """The user's own sentences, or SST-2."""
    if FLAGS.train_file is None:
        main.refuse(("validation_file", "label_field"), "without --train_file")
        if FLAGS.sentences is None:
            main.refuse(("text_field",), "without --train_file or --sentences")
        return sst2_data.load(FLAGS.data_dir, download=FLAGS.download)
    main.refuse(("data_dir", "download"), "with --train_file")
    return sentences.load(
        FLAGS.train_file, FLAGS.validation_file, text_field=FLAGS.text_field, label_field=FLAGS.label_field
    )
