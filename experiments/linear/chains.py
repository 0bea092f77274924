"""What several layers learn: a frozen chain of matrices, its target, and updates of rank R that reach the bound. By numpy in float64.

The student is x (W_1 + U_1) ... (W_L + U_L), each U_l of rank R. Its product differs from W = W_1 ... W_L by a matrix of rank R L at most (swap one
factor at a time), so its distance to W + E is the sum of sigma_i(E)^2 over i > R L or more. Zeng and Lee 2024 (arXiv:2310.17513, section 3) show
that it can be reached where no matrix on the way is singular: `constructed` is their argument for rows.

Letters: D features, L layers, R the rank of each.
"""

import dataclasses

import numpy as np

from experiments.linear.settings import LAYERS, D
from experiments.linear.teachers import decaying, rotation


@dataclasses.dataclass(frozen=True)
class Chain:
    """Frozen layers [L, D, D], and the update E [D, D] of their product that is to be learned."""

    layers: np.ndarray
    update: np.ndarray

    @property
    def product(self) -> np.ndarray:
        """W_1 ... W_L."""
        return product(self.layers)

    @property
    def target(self) -> np.ndarray:
        """The matrix to be learned."""
        return self.product + self.update


def product(layers: np.ndarray) -> np.ndarray:
    """Of matrices [L, D, D] in order; of none, the identity.

    >>> product(np.stack([2 * np.eye(2), 3 * np.eye(2)])).tolist()
    [[6.0, 0.0], [0.0, 6.0]]
    """
    result = np.eye(layers.shape[-1])
    for layer in layers:
        result = result @ layer
    return result


def draw(kind: str, depth: int, seed: int) -> Chain:
    """A seed's chain; whatever the depth, the update has the same singular values."""
    rng = np.random.default_rng([3, LAYERS.index(kind), depth, seed])
    update = decaying(rng)
    make = rotation if kind == "orthogonal" else lambda rng: rng.standard_normal((D, D)) / np.sqrt(D)
    return Chain(np.stack([make(rng) for _ in range(depth)]), update)


def constructed(chain: Chain, rank: int) -> np.ndarray:
    """Updates [L, D, D] of this rank whose product has the least error.

    E's singular components are dealt out, R to a layer: E_1, E_2, ... The first l updates make the product W + E_1 + ... + E_l while the other
    layers are as they were, so with the adapted layers before it, A, and the frozen ones after it, B, U_l = A^-1 E_l B^-1.
    """
    left, sizes, right = np.linalg.svd(chain.update)
    updates, before = [], np.eye(D)
    for i, layer in enumerate(chain.layers):
        part = slice(i * rank, (i + 1) * rank)
        component = (left[:, part] * sizes[part]) @ right[part]
        after = product(chain.layers[i + 1 :])
        updates.append(np.linalg.solve(before, np.linalg.solve(after.T, component.T).T))
        before = before @ (layer + updates[-1])
    return np.stack(updates)
