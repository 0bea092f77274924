"""optax over the trainable leaves only: no state for the base, and no change to it; and LoRA+."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lora_jax.errors import OptimizerError
from lora_jax.intake import described
from lora_jax.leaves import A, B
from lora_jax.partition import Mask, partition, trainable_paths
from lora_jax.products.site import Site, require_sites
from lora_jax.scalars import number
from lora_jax.tree import Params, flat, nested


def lora_optimizer(inner: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformation:
    """`inner` on the leaves where `mask` is True; zero updates elsewhere.

    Unlike `optax.masked`, which passes the raw gradient of a masked leaf through, so that the base moves. The state
    is that of `inner` on the trainable tree. `update` takes gradients of the whole tree (and returns zeros for the
    base) or of the trainable tree alone, as the train step of `lora_jax.training` does.

    Args:
      inner: any optax optimiser.
      mask: from `trainable_mask`.

    Raises:
      OptimizerError: when the mask trains nothing.

    >>> tx = lora_optimizer(optax.sgd(1.0), {"w": False, "lora_b": True})
    >>> params = {"w": jnp.ones(2), "lora_b": jnp.ones(2)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> {name: u.tolist() for name, u in sorted(updates.items())}
    {'lora_b': [-1.0, -1.0], 'w': [0.0, 0.0]}
    """
    require_transformation(inner, "lora_optimizer")
    inner = optax.with_extra_args_support(inner)
    trains = trainable_paths(mask)
    if not trains:
        raise OptimizerError("the mask trains nothing; trainable_mask(params, train=('<head>',)) makes one that does.")

    def trainable_part(tree: Params | None) -> dict | None:
        """The trainable leaves of a whole tree; a trainable tree passes through."""
        if tree is None or flat(tree).keys() == trains:
            return tree
        return partition(tree, mask)[1]

    def init(params: Params) -> Any:
        return inner.init(trainable_part(params))

    def update(updates: Params, state: Any, params: Params | None = None, **extra: Any):
        new, state = inner.update(trainable_part(updates), state, trainable_part(params), **extra)
        if flat(updates).keys() == trains:
            return new, state
        still = {path: jnp.zeros_like(leaf) for path, leaf in flat(updates).items() if path not in trains}
        return nested({**still, **flat(new)}), state

    return optax.GradientTransformationExtraArgs(init, update)


def require_transformation(tx: Any, where: str) -> None:
    """Raises OptimizerError for what is no optax transformation.

    >>> require_transformation(optax.sgd(0.1), "init_state")
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise OptimizerError(
            f"{where} is given {described(tx)} for its optimiser; it takes an optax transformation, for example optax.adamw(1e-3)."
        )


def lora_plus(ratio: int | float, layout: Mapping[str, Site] | None = None) -> optax.GradientTransformation:
    """Multiplies the updates of every `lora_b` by `ratio`: put last in a chain, b's learning rate is `ratio` times that of the rest.

    LoRA+: Hayou et al. 2024 (arXiv:2402.12354), section 4, which finds ratios of about 16 good for wide models. Weight decay inside the
    chain is scaled too, as in PEFT's parameter groups.

    Args:
      ratio: of the learning rates.
      layout: from `lora_jax.layout`, or the `layout` of an NNX wrapper. The paper's B is the factor that starts at zero; in an embedding,
        and in a kernel with its outputs first, that is `lora_a`, which only the layout tells: without it the ratio multiplies the random
        factor of these layers, so pass it wherever one of them is adapted.

    Raises:
      OptimizerError: for a ratio that is not positive.

    >>> tx = optax.chain(optax.sgd(1.0), lora_plus(16))
    >>> params = {"lora_a": jnp.ones(()), "lora_b": jnp.ones(())}
    >>> {name: float(u) for name, u in tx.update(params, tx.init(params))[0].items()}
    {'lora_a': -1.0, 'lora_b': -16.0}
    """
    require_sites(layout or {}, "lora_plus")
    if (number(ratio) or 0) <= 0:
        raise OptimizerError(f"lora_plus: the ratio is {ratio!r}; it must be positive, for example 16.")

    zero_is_a = {path for path, site in (layout or {}).items() if site.is_lookup or site.is_transposed}

    def scaled(path: tuple, update: jax.Array) -> jax.Array:
        *module, name = [str(getattr(part, "key", "")) for part in path] or [""]
        return update * ratio if name == (A if "/".join(module) in zero_is_a else B) else update

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))
