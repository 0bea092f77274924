"""S4.1 to S4.7, from the summary of S4. Differences are taken seed by seed: treatments share a seed's order of the rows.

"The original" is LoRA as the study had it: square projections, no alpha, one constant learning rate. A verdict rests on facts, each
told with its answer; that LoRA was not tuned is the rival explanation, so the tuned ones stand beside.
"""

from typing import Any

import numpy as np

from experiments.common.curves import epoch_at
from experiments.common.statistics import estimate, text
from experiments.ledger.facts import above, below, claim, gain, less_than
from experiments.ledger.table import Claim

SAME = 0.05  # nats a token: "no meaningful improvement"
POOR = 0.5  # of what tuned full fine-tuning gains in discrimination
CLOSES = 0.5  # a gap closes when what is left of it is less than this share
INSTRUCTIONS, MEDICAL = "instructions", "medical"


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    found = [c(summary, command) for c in (_first, _longer, _rank, _batch, _medical, _full, _size)]
    return [one for one in found if one is not None]


def _row(
    summary, name: str, data: str = INSTRUCTIONS, rank: int | None = None, epoch: int | None = None
) -> dict[str, Any] | None:
    """The row of a treatment at an epoch, by default its last; None where the run has none."""
    rows = [row for row in summary["rows"] if row["name"] == name and row["data"] == data]
    rows = [row for row in rows if rank in (None, row["rank"]) and epoch in (None, row["epoch"])]
    return rows[-1] if rows else None


def _loss(row: dict[str, Any], of: str = "answers") -> list[float]:
    return row["losses"][of]


def _nats(e: dict[str, Any]) -> str:
    return f"{text(e, 3)} nats"


def _epochs(count: int) -> str:
    return f"{count} epoch" + ("s" if count > 1 else "")


def _percent(values: list[float]) -> str:
    return f"{text(estimate(values), 1, 100)} %"


def _against_base(summary, row, values: list[float], of_base: float, level: float = 0.95) -> dict[str, Any]:
    """The base is one model: every seed is compared with it."""
    return gain([of_base] * len(values), values, level)


def _first(summary, command: str) -> Claim:
    base, full = _row(summary, "base"), _row(summary, "tuned full")
    one = _row(summary, "original", rank=8, epoch=1)
    of_base = base["rates"]["blank"][0]
    blank = _against_base(summary, one, one["rates"]["blank"], of_base)
    known = [float(np.mean(row["discrimination"])) for row in (base, one, full)]
    fewer = "fewer blank outputs than the base" + ("" if of_base else ", which gives none")
    poor = f"less than {100 * POOR:.0f} % of tuned full fine-tuning's gain in telling the true answer from nine others"
    facts = {
        fewer: below(blank, 0.0) if of_base else None,
        poor: known[1] - known[0] < POOR * (known[2] - known[0]),
    }
    ours = (
        f"blank: base {100 * of_base:.0f} %, after one epoch {_percent(one['rates']['blank'])}; discrimination (chance 10 %): "
        f"base {100 * known[0]:.1f} %, {_percent(one['discrimination'])}, tuned full {_percent(full['discrimination'])}"
    )
    return claim(
        "S4.1", "LoRA r = 8, 1 epoch: fewer blank outputs than the base, instruction following still poor", ours,
        len(one["discrimination"]), facts, command, f" ({_waiting(summary)})",
    )  # fmt: skip


def _waiting(summary) -> str:
    share = summary["bases"][summary["settings"]["size"]]["share_waiting_for_data"]
    return (
        "the loader's share was not measured" if share is None else f"data takes {100 * share:.2f} % of the time here"
    )


def _longer(summary, command: str) -> Claim | None:
    """More epochs against one."""
    one = _row(summary, "original", rank=8, epoch=1)
    longer = [
        row
        for row in summary["rows"]
        if row["name"] == "original" and row["data"] == INSTRUCTIONS and row["rank"] == 8 and row["epoch"] > 1
    ]
    if not longer:
        return None
    gains = {row["epoch"]: gain(_loss(row), _loss(one)) for row in longer}
    facts = {f"{epoch} epochs gain less than {SAME:g} nats": less_than(e, SAME) for epoch, e in gains.items()}
    ours = "held-out answers, loss saved against one epoch: " + "; ".join(
        f"{epoch}: {_nats(e)}" for epoch, e in gains.items()
    )
    ours += f"; discrimination {_percent(one['discrimination'])} to {_percent(longer[-1]['discrimination'])}"
    return claim("S4.2", "10 and 50 epochs: no meaningful improvement", ours, len(_loss(one)), facts, command)


def _rank(summary, command: str) -> Claim | None:
    eight, sixteen = _row(summary, "original", rank=8), _row(summary, "original", rank=16)
    if sixteen is None:
        return None
    e = gain(_loss(sixteen), _loss(eight))
    facts = {f"r = 16 gains less than {SAME:g} nats": less_than(e, SAME)}
    ours = f"after {eight['epoch']} epochs r = 16 saves {_nats(e)} against r = 8"
    return claim("S4.3", "r = 16 does not help", ours, e["n"], facts, command)


def _batch(summary, command: str) -> Claim:
    small = next(row for row in reversed(summary["rows"]) if row["name"].startswith("original, batch"))
    large = _row(summary, "original", rank=8, epoch=small["epoch"])
    e = gain(_loss(small), _loss(large))
    cost = _cost(small) / _cost(large)
    facts = {
        f"batch {small['batch']} gains less than {SAME:g} nats": less_than(e, SAME),
        "and an epoch of it takes longer": cost > 1,
    }
    ours = (
        f"after {_epochs(small['epoch'])} batch {small['batch']} saves {_nats(e)} against {large['batch']}; an epoch takes "
        f"{cost:.2f} times as long (on a CPU)"
    )
    return claim("S4.4", "a smaller batch does not help, and wastes the accelerator", ours, e["n"], facts, command)


def _cost(row) -> float:
    """Seconds an epoch."""
    return row["seconds_per_step"] * row["steps"] / row["epoch"]


def _medical(summary, command: str) -> Claim:
    base = _row(summary, "base", MEDICAL)
    found = {name: _row(summary, name, MEDICAL) for name in ("original", "tuned LoRA")}

    def change(row, of: str) -> dict[str, Any]:
        return _against_base(summary, row, _loss(row, of), _loss(base, of)[0])

    changes = {
        name: {of: change(row, of) for of in ("answers", "general", INSTRUCTIONS)} for name, row in found.items()
    }
    facts = {
        "the original's is worse on held-out medical answers": above(changes["original"]["answers"]),
        "or on general text": above(changes["original"]["general"]),
        "tuned LoRA is worse on held-out medical answers": above(changes["tuned LoRA"]["answers"]),
    }
    ours = "change in nats a token: " + "; ".join(
        f"{name}: medical answers {text(of['answers'], 3)}, general text {text(of['general'], 3)}, other instructions {text(of[INSTRUCTIONS], 3)}"
        for name, of in changes.items()
    )
    return claim("S4.5", "LoRA on medical QA made the model worse", ours, len(_loss(found["original"])), facts, command)


def _full(summary, command: str) -> Claim:
    tuned, full = _row(summary, "tuned LoRA"), _row(summary, "tuned full")
    original = _row(summary, "original", rank=8)
    soon = epoch_at(_curve(summary, "tuned full"), float(np.mean(_loss(original))))
    facts = {
        f"full is below the original's LoRA after {original['epoch']} epochs": above(
            gain(_loss(full), _loss(original))
        ),
        "and below a tuned LoRA": above(gain(_loss(full), _loss(tuned))),
        "and tells the true answer more often than a tuned LoRA": above(
            gain(tuned["discrimination"], full["discrimination"])
        ),
    }
    ours = (
        f"held-out answers: full {_nats(estimate(_loss(full)))} after {full['epoch']} epochs, original LoRA {_nats(estimate(_loss(original)))} after "
        f"{original['epoch']}, tuned LoRA {_nats(estimate(_loss(tuned)))} after {tuned['epoch']}; full "
        + (f"is where the original ends after {_epochs(soon)}" if soon else "never gets where the original ends")
        + f"; general text, lost: full {_nats(_lost(summary, full))}, tuned LoRA {_nats(_lost(summary, tuned))}"
    )
    return claim(
        "S4.6", "full fine-tuning converged in 2 epochs, LoRA took far longer, and full was clearly better at following instructions",
        ours, len(_loss(full)), facts, command,
    )  # fmt: skip


def _curve(summary, name: str) -> dict[str, Any]:
    return next(curve for curve in summary["curves"] if curve["name"] == name and curve["data"] == INSTRUCTIONS)


def _lost(summary, row) -> dict[str, Any]:
    return _against_base(summary, row, _loss(row, "general"), _loss(_row(summary, "base"), "general")[0])


def _size(summary, command: str) -> Claim | None:
    s = summary["settings"]
    by_size = [found for found in summary["gaps"] if found["rank"] == s["rank"]]
    by_rank = [found for found in summary["gaps"] if found["size"] == s["size"]]
    if len(by_size) < 2 or len(by_rank) < 2:
        return None
    smallest, largest, low, high = by_size[0], by_size[-1], by_rank[0], by_rank[-1]
    facts = {
        f"the gap closes with size, from {smallest['size']} to {largest['size']}": _closes(smallest, largest),
        f"and with rank, from {low['rank']} to {high['rank']}": _closes(low, high),
        "and there is one at the smallest size": above(smallest["gap"]),
    }
    ours = "tuned LoRA minus tuned full, bits per byte: " + ", ".join(
        f"{found['size']} {text(found['gap'], 4)}" for found in by_size
    )
    ours += f" at r = {s['rank']}; at {s['size']} " + ", ".join(
        f"r = {found['rank']} {text(found['gap'], 4)}" for found in by_rank
    )
    return claim(
        "S4.7",
        "LoRA depends on over-parameterisation, which a 20 M model lacks",
        ours,
        largest["gap"]["n"],
        facts,
        command,
    )


def _closes(small: dict[str, Any], large: dict[str, Any]) -> bool | None:
    """Whether less than half of the small one's gap is left; not settled where the interval of the difference has half of it inside."""
    left = np.subtract(large["lora"], large["full"]) - CLOSES * np.subtract(small["lora"], small["full"])
    return less_than(estimate(left.tolist()), 0.0) if above(small["gap"]) else False
