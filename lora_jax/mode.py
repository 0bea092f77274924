"""Whether a model runs in training: an adapter's dropout follows the model's own mode."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SWITCHES = {
    "deterministic": False,
    "train": True,
    "training": True,
    "is_training": True,
}  # name -> its value in training


def is_training(model: Any, call: Callable, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """What the call says by an argument of one of the usual names, or the model by a field; True where neither says anything.

    Args:
      call: a method of the model, or a function of it.

    >>> import flax.linen as nn
    >>> layer = nn.Dropout(0.5, deterministic=True)
    >>> is_training(layer, nn.Dropout.__call__, (1.0,), {}), is_training(layer, nn.Dropout.__call__, (1.0, False), {})
    (False, True)
    """
    given = _arguments(call, model, args, kwargs)
    for name, when_training in SWITCHES.items():
        for value in (given.get(name), getattr(model, name, None)):
            if isinstance(value, (bool, np.bool_)):
                return bool(value) == when_training
    return True


def _arguments(call: Callable, model: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """name -> value of all arguments, with their defaults."""
    try:
        bound = inspect.signature(call).bind(model, *args, **kwargs)
    except (TypeError, ValueError):  # the call itself will say what is wrong
        return dict(kwargs)
    bound.apply_defaults()
    return {**bound.arguments, **kwargs}
