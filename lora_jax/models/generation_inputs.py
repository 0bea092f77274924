"""What `generation.generate` is given, checked before anything is compiled: JAX would clamp what lies outside, without a word.

Letters: B prompts, T prompt tokens, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.errors import ModelError, shown
from lora_jax.models.causal_lm import CausalLM
from lora_jax.scalars import integer
from lora_jax.tree import differences, flat


def require_model(model: Any, through: Any) -> None:
    """Raises ModelError for a model that is no CausalLM, or a wrapper that nothing can be applied by."""
    if not isinstance(model, CausalLM):
        raise ModelError(
            f"generate: model is a {type(model).__name__}; expected a CausalLM (a module that wraps one goes in through=)."
        )
    if through is not None and not callable(getattr(through, "apply", None)):
        raise ModelError(f"generate: through is {shown(through)}; expected a module that wraps the model, or None.")


def require_params(model: CausalLM, params: Any) -> None:
    """Raises ModelError for leaves that are not the model's own: Flax would leave adapters among them out."""
    expected = jax.eval_shape(model.init, jax.random.key(0), *model.example())["params"]
    problems = differences(flat(expected), flat(params), any_dtype=True)
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"generate: the parameters are not this model's: {'; '.join(problems[:3])}{more}; where another module uses them, name it by through=."
        )


def whole(value: Any, name: str) -> int:
    """A number of tokens as an integer. Raises ModelError below 1."""
    found = integer(value)
    if found is None or found < 1:
        raise ModelError(f"generate: {name} is {shown(value)}; it must be an integer of 1 or more.")
    return found


def stops(stop: Any) -> tuple[int, ...]:
    """The tokens that end a row, of one, several or None.

    >>> stops(np.int32(0)), stops([2, 3]), stops(None)
    ((0,), (2, 3), ())
    """
    one = integer(stop)
    several = () if stop is None else (stop,) if one is not None else stop
    if isinstance(several, (tuple, list, frozenset, set, np.ndarray, jax.Array)) and np.ndim(several) <= 1:
        found = tuple(map(integer, several))
        if None not in found:
            return found
    raise ModelError(f"generate: stop is {shown(stop)}; expected the number of a token, several of them, or None.")


def prompts(model: CausalLM, ids: Any, lengths: Any) -> tuple[jax.Array, jax.Array]:
    """(int32 [B, T], int32 [B]). Raises ModelError for other shapes, lengths outside 1 to T, or tokens that the model lacks."""
    ids, lengths = _integers("prompts", ids, 2), _integers("lengths", lengths, 1)
    if len(lengths) != len(ids) or not ids.size:
        raise ModelError(
            f"generate: prompts are {list(ids.shape)} and lengths {list(lengths.shape)}; expected [B, T] and [B], with 1 or more of each."
        )
    if not any(isinstance(each, jax.core.Tracer) for each in (ids, lengths)):
        _require_values(np.asarray(ids), np.asarray(lengths), model.config.vocab_size)
    return ids.astype(jnp.int32), lengths.astype(jnp.int32)


def _integers(name: str, value: Any, axes: int) -> jax.Array:
    try:
        found = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or found.ndim != axes or not jnp.issubdtype(found.dtype, jnp.integer):
        said = f"{found.dtype} {list(found.shape)}" if found is not None and hasattr(value, "dtype") else shown(value)
        raise ModelError(f"generate: {name} are {said}; expected integers [{'B, T' if axes == 2 else 'B'}].")
    return found


def _require_values(ids: np.ndarray, lengths: np.ndarray, vocabulary: int) -> None:
    t = ids.shape[1]
    for row, length in enumerate(lengths.tolist()):
        if not 1 <= length <= t:
            raise ModelError(
                f"generate: prompt {row} has the length {length}; a length is from 1 to {t}, the width of prompts."
            )
    odd = (np.arange(t)[None] < lengths[:, None]) & ((ids < 0) | (ids >= vocabulary))
    if odd.any():
        row, place = np.argwhere(odd)[0].tolist()
        raise ModelError(
            f"generate: token {place} of prompt {row} is {ids[row, place]}; the model has tokens 0 to {vocabulary - 1}."
        )


def key(key: Any, temperature: float) -> jax.Array:
    """The key to draw with; greedy decoding draws nothing, so that None will do. Raises ModelError for what is no key."""
    if key is None and temperature == 0:
        return jax.random.key(0)
    is_key = isinstance(key, (jax.Array, np.ndarray))
    is_typed = is_key and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_key or not (key.ndim == 0 if is_typed else key.ndim == 1 and key.dtype == jnp.uint32):
        raise ModelError(f"generate: key is {shown(key)}; expected one of JAX's, as jax.random.key(0).")
    return key
