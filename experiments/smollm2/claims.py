"""S4.8, from the summary of S4's over-parameterised end: one model is the unit, so items alone are the sample."""

from experiments.following.claims import GATE, not_testable
from experiments.following.read import BOTH, Summary, right, row
from experiments.ledger import declared
from experiments.ledger.facts import ALL, settled
from experiments.ledger.inference import equivalent_over_items, over_items
from experiments.ledger.table import Claim
from experiments.smollm2.settings import ARMS

LORA, FULL = ARMS


def claims(summary: Summary, command: str) -> list[Claim]:
    """Whether LoRA follows as well as full fine-tuning where there are parameters to spare; not testable where that does not follow itself."""
    base, lora, full = (row(summary, "arms", arm) for arm in ("base", LORA, FULL))
    margin = declared.of("S4.8").margin
    gate = over_items(
        f"full fine-tuning has {GATE:g} % right", right(summary, full), 0.0 * right(summary, full), bar=GATE
    )
    facts = [
        gate,
        over_items("LoRA is above the base", right(summary, lora), right(summary, base)),
        equivalent_over_items(f"LoRA within {margin:g} points of full", right(summary, lora), right(summary, full), margin),
    ]  # fmt: skip
    told = "; ".join(
        f"{of['arm']} {100 * right(summary, of).mean():.1f} %, with new phrasings, too, {100 * right(summary, of, BOTH).mean():.1f} %"
        for of in (base, lora, full)
    )
    name = summary["base"]["name"].split("/")[-1]
    statement = f"with parameters to spare ({name}) LoRA r = 8 follows as well as full fine-tuning (found here)"
    more, count = f"; {told}; {lora['steps']} updates, one run each", right(summary, full).shape[1]
    claim = settled("S4.8", statement, facts, count, command, published="-", more=more, needs=ALL)
    return [
        claim if gate.true else not_testable(claim, "full fine-tuning is not shown to reach the gate", "not testable")
    ]
