"""Many adapters, one program: ranks x alphas x learning rates x seeds trained over one base.

Ranks are padded with zeros to the largest (`lowrank.pad_rank` says why this is exact); scales and learning rates are
data. So all members have one shape, and one compiled program trains them.
"""

from lora_jax.sweep.members import Member, even, grid, init_adapters, is_padding
from lora_jax.sweep.stacks import broadcast, fill, first
from lora_jax.sweep.trainer import DEFAULT_STRATEGY, STRATEGIES, Sweep, SweepState, member_params
from lora_jax.sweep.winners import member

__all__ = [
    "DEFAULT_STRATEGY",
    "STRATEGIES",
    "Member",
    "Sweep",
    "SweepState",
    "broadcast",
    "even",
    "fill",
    "first",
    "grid",
    "init_adapters",
    "is_padding",
    "member",
    "member_params",
]
