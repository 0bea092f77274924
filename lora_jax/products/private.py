"""Everything of JAX that is not its public interface, in one place, with what it is for. JAX 0.10.2 to 0.12 are tried.

A replayed program is a jaxpr, and these are what reading and binding its equations takes. Where a later JAX names them otherwise, this file
fails loudly: nothing here guesses.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from lora_jax.errors import ModelError

try:  # names of modules and lines of the user's, for messages alone: without them a message is shorter
    from jax._src import source_info_util
except ImportError:
    source_info_util = None


def bind(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Runs an equation as it is on other values.

    `get_bind_params` turns what a jaxpr keeps of a primitive (a closed inner program, say) into what the primitive is called with.
    """
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)
    outputs = eqn.primitive.bind(*functions, *values, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


@contextlib.contextmanager
def within(eqn: JaxprEqn) -> Iterator[None]:
    """The settings that the user's code ran under (`eqn.ctx`: precision, mesh, compute type), and its place in her source."""
    with eqn.ctx.manager, _place(eqn):
        yield


def _place(eqn: JaxprEqn) -> contextlib.AbstractContextManager:
    if source_info_util is None:
        return contextlib.nullcontext()
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    return source_info_util.user_context(eqn.source_info.traceback, name_stack=names)


def names_of(eqn: JaxprEqn) -> str:
    """The modules an equation is in, `encoder/layer_0/query` for a Flax model; "" outside of any."""
    return str(eqn.source_info.name_stack)


def line_of(eqn: JaxprEqn) -> str:
    """`model.py:12`, the user's line that an equation is of; "" where that is not known."""
    return source_info_util.summarize(eqn.source_info).rpartition("/")[2] if source_info_util else ""


def function_of(eqn: JaxprEqn) -> str:
    """`straight (model.py:97)`, the function that a call with a derivative of its own is of; the operation's name where that is not known."""
    program = _program(eqn)
    program = getattr(program, "jaxpr", program)
    told = str(getattr(getattr(program, "debug_info", None), "func_src_info", ""))  # "straight at /home/me/model.py:97"
    name, at, place = told.partition(" at ")
    return f"{name} ({place.rpartition('/')[2]})" if at else eqn.primitive.name


def value_of(atom: Any, known: dict[Any, Any]) -> Any:
    """What an equation reads: a literal's value, or what the environment has for a variable."""
    return atom.val if isinstance(atom, Literal) else known[atom]


@functools.lru_cache(maxsize=4096)
def live(jaxpr: Jaxpr) -> tuple[JaxprEqn, ...]:
    """The equations whose results are used: a dead one is no use of what it reads."""
    needed, kept = {out for out in jaxpr.outvars if not isinstance(out, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(out in needed for out in eqn.outvars):
            kept.append(eqn)
            needed |= {read for read in eqn.invars if not isinstance(read, Literal)}
    return tuple(reversed(kept))


def inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation runs."""
    for value in eqn.params.values():
        for program in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(program, ClosedJaxpr):
                yield program.jaxpr
            elif isinstance(program, Jaxpr):
                yield program


def _program(eqn: JaxprEqn) -> Any:
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


def called(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]]:
    """(program, constants) of a call: of `jit`, `closed_call`, `custom_jvp_call` or `custom_vjp_call`."""
    program = _program(eqn)
    if program is None:
        raise ModelError(
            f"JAX {jax.__version__} keeps the program of {eqn.primitive.name} where lora_jax does not know it."
        )
    return (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())


def scan_sizes(eqn: JaxprEqn, values: Sequence[Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried. JAX 0.11 renamed both."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carried = eqn.params["ft_in"].update(values).unpack()[:2]
    return len(list(constants.vals)), len(list(carried.vals))


HANDING_ON = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")


def origin(program: Jaxpr, out: Any) -> int | None:
    """The number of the input that an output is, unchanged, through calls and remats too; None where it is none."""
    made = {v: (eqn, k) for eqn in program.eqns for k, v in enumerate(eqn.outvars)}
    while not isinstance(out, Literal):
        if out in made:
            eqn, k = made[out]
            inside, _ = called(eqn) if eqn.primitive.name in HANDING_ON else (None, ())
            at = None if inside is None else origin(inside, inside.outvars[k])
            if at is None:
                return None
            out = eqn.invars[at]
        else:
            return next((k for k, v in enumerate(program.invars) if v is out), None)
    return None
