"""`tiny_lm.py`: S4, job by job."""

import dataclasses
import functools

from absl import flags
from etils import epath

import lora_jax
from experiments.common import devices, lm, main
from experiments.common.errors import UserError
from experiments.data import questions, text
from experiments.figures import lm_finetuning
from experiments.settings.lm_jobs import RATES
from experiments.studies import lm_jobs, lm_pretraining, lm_speaker, lm_study
from lora_jax.models.generation import Sampling

FLAGS = flags.FLAGS
OF_PRETRAINING = ("corpus", "field", "size", "tokens")
OF_TRAINING = ("length", "batch_size", "epochs", "learning_rate", "seed")
OF_ADAPTERS = ("rank", "scale", "targets")
OF_FINETUNING = ("model", "regime", *OF_ADAPTERS, "limit")
OF_CHAT = ("temperature", "top_k", "top_p", "max_new_tokens")


def run() -> None:
    if FLAGS.job != "study":
        main.refuse(("seeds",), f"with --job={FLAGS.job}, where one model is trained")
        main.refuse(("medical",), f"with --job={FLAGS.job}, only with study")
    {"pretrain": _pretrain, "finetune": _finetune, "study": _study, "chat": _chat}[FLAGS.job]()


def _study() -> None:
    main.refuse(("size", "tokens", *OF_TRAINING, *OF_FINETUNING, *OF_CHAT), "with --job=study; its presets say")
    settings = main.settings_from_flags(lm_study.PRESETS)
    lm.execute("tiny_lm_study", settings, lm.sources())


def _pretrain() -> None:
    main.refuse((*OF_FINETUNING, "questions", *OF_CHAT), "with --job=pretrain")
    names = ("size", "length", "batch_size", "tokens", "epochs", "learning_rate", "seed")
    settings = main.settings_from_flags(lm_pretraining.PRESETS, **{name: FLAGS[name].value for name in names})
    devices.settle()
    print(f"model: {lm.pretrain(settings, lm.corpus())['model']}")


def _finetune() -> None:
    main.refuse((*OF_PRETRAINING, *OF_CHAT), "with --job=finetune")
    settings, base, material = _of_finetuning()
    main.execute(
        "tiny_lm_finetune", settings, lambda folder: lm_jobs.finetune(folder, settings, base, material.pairs),
        lm_finetuning, data=material,
    )  # fmt: skip


def _chat() -> None:
    main.refuse(OF_PRETRAINING, "with --job=chat")
    sampling = Sampling(FLAGS.temperature, FLAGS.top_k, FLAGS.top_p)
    settings, base, material = _of_finetuning()
    most = base.model.config.max_position_embeddings
    if FLAGS.max_new_tokens >= most:
        raise UserError(
            f"--max_new_tokens: {FLAGS.max_new_tokens} is not below {most}, the positions of {FLAGS.model}."
        )
    voices = _trained(settings, base, material)
    if "LoRA" in voices:
        voices["off"] = lm_speaker.Voice(lora_jax.scaled(voices["LoRA"].params, 0.0), voices["LoRA"].through)
    if not voices:
        print(f"{FLAGS.workdir} holds no model fine-tuned with these flags: only the base speaks.", flush=True)
    voices["base"] = lm_speaker.Voice(base.params)
    lm_jobs.chat(base, voices, max_new_tokens=FLAGS.max_new_tokens, sampling=sampling)


def _trained(settings: lm_jobs.Settings, base: lm_speaker.Base, material: "Material") -> dict[str, lm_speaker.Voice]:
    """What finetune left of each regime by the same flags, the one that is asked for first."""
    voices = {}
    for regime in dict.fromkeys([settings.regime, *RATES]):
        of = _settings(regime)
        folder = main.finished("tiny_lm_finetune", of, material)
        if folder is not None:
            voices[regime] = lm_jobs.restored(folder, of, base)
    return voices


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """A base and questions: what a fine-tuning depends on beside its settings."""

    base: lm_speaker.Base
    pairs: questions.Pairs

    @functools.cached_property
    def checksum(self) -> str:
        return f"{self.pairs.checksum} {text.checksum(sorted(str(path) for path in self.base.path.glob('*.*')))}"

    def record(self) -> dict[str, str]:
        """What environment.json says about it."""
        return {"questions": self.pairs.source, "base": str(self.base.path), "sha256": self.checksum}


def _settings(regime: str) -> lm_jobs.Settings:
    """What the flags say of a regime."""
    given = {name: FLAGS[name].value for name in ("learning_rate", "epochs", "batch_size", "length", "limit", "seed")}
    if regime == "LoRA":
        given |= {"rank": FLAGS.rank, "scale": FLAGS.scale, "targets": tuple(FLAGS.targets) if FLAGS.targets else None}
    return main.settings_from_flags(lm_jobs.PRESETS, regime=regime, **given)


def _of_finetuning() -> tuple[lm_jobs.Settings, lm_speaker.Base, Material]:
    """What finetune and chat share, so that the same flags name the same run."""
    settings = _settings(FLAGS.regime or "LoRA")
    if settings.regime != "LoRA":
        main.refuse(OF_ADAPTERS, f"with --regime={settings.regime}, which has no adapter")
    if not FLAGS.model:
        raise UserError("--model is missing: name the folder `model` of a run of --job=pretrain.")
    devices.settle()
    base = lm_speaker.load(epath.Path(FLAGS.model))
    most = base.model.config.max_position_embeddings
    if FLAGS.length and FLAGS.length > most:
        raise UserError(f"--length: {FLAGS.length} is not between 2 and {most}, the positions of {FLAGS.model}.")
    return settings, base, Material(base, lm.instructions())
