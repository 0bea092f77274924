"""A multi-layer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class MLP(nn.Module):
    """ReLU layers `hidden_0`, `hidden_1` ... with dropout after each, then the linear layer `classifier`.

    Args (of the module):
      hidden: widths of the hidden layers.
      classes: C, the number of outputs.
      dropout: rate after each ReLU; needs an rng named "dropout" when `train` is True.

    Call: x [B, ...] is flattened to [B, D]; returns logits [B, C].

    >>> import jax.numpy as jnp
    >>> MLP(hidden=(8,), classes=3).init_with_output(jax.random.key(0), jnp.ones((2, 4, 4)))[0].shape
    (2, 3)
    """

    hidden: Sequence[int]
    classes: int = 10
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="classifier")(x)
