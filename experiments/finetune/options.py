"""The flags that say how a token is drawn."""

from experiments.common.flags import define_integer, define_number

SAMPLING_FLAGS = ("temperature", "top_k", "top_p")


def define_sampling() -> None:
    """--temperature, --top_k, --top_p: SAMPLING_FLAGS."""
    define_number(
        "temperature",
        "temperature of sampling; 0 takes the likeliest token",
        default=0.0,
        least=1e-3,
        most=1e3,
        has_zero=True,
    )
    define_integer("top_k", "sample among this many likeliest tokens; 0 takes all", default=0, least=0)
    define_number(
        "top_p", "sample among the fewest tokens whose probabilities add up to this", default=1.0, least=1e-6, most=1.0
    )
