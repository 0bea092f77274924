"""What one layer learns, and the best that a matrix of each rank can do: drawn and computed by numpy in float64.

A student of the inputs X [N, D] is W0 + U, its labels are Y = X (W0 + E) + noise, and its error on them

    ||X U - T||_F^2 / N,    T = Y - X W0.

Let X = P S Q^T with its n singular values that are not 0. As P^T P = I, this is ||S Q^T U - P^T T||_F^2 / N plus what no U can explain. Q^T has
full row rank, so Z = S Q^T U is any matrix [n, D], and of any rank r <= n: the minimum over rank r is the Eckart-Young bound of the whitened
P^T T, the sum of sigma_i^2 over i > r, over N. Without noise, sigma_i(P^T T)^2 / N = sigma_i(C^(1/2) E)^2, where C = X^T X / N: the best rank-r
matrix in the norm that the inputs' covariance weighs. With white inputs, C = I, it is Eckart and Young's own.

Letters: D features in and out, N inputs.
"""

import dataclasses
import functools

import numpy as np

from experiments.linear.settings import DECAY, INPUTS, D

CONDITION = 100.0  # of the covariance of anisotropic inputs
FEW, MANY = 48, 256  # inputs: fewer than features, and more
NOISE = 0.5  # standard deviation of a noisy label


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Start W0, update E, inputs x and labels y, all [D, D]; x and y stand for any number of inputs."""

    start: np.ndarray
    update: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """The teacher's matrix [D, D]."""
        return self.start + self.update

    def bounds(self) -> np.ndarray:
        """The least error on the training inputs of each rank from 0 [n + 1], without what no update explains."""
        return tails(self._whitened[1]) / D

    def best(self, rank: int) -> np.ndarray:
        """The update of this rank [D, D] with the least error on the training inputs; of several that of least norm."""
        left, sizes, right, unwhiten = self._whitened
        return unwhiten @ ((left[:, :rank] * sizes[:rank]) @ right[:rank])

    @functools.cached_property
    def _whitened(self) -> tuple[np.ndarray, ...]:
        """The singular value decomposition of P^T T [n, D], and Q S^-1 [D, n]."""
        p, scale, q = np.linalg.svd(self.x)
        n = int((scale > 1e-9 * scale[0]).sum())
        whitened = p[:, :n].T @ (self.y - self.x @ self.start)
        return *np.linalg.svd(whitened, full_matrices=False), q[:n].T / scale[:n]


def tails(sizes: np.ndarray) -> np.ndarray:
    """Of falling singular values the sums of sigma_i^2 over i > r, for r = 0 ... their number.

    >>> tails(np.array([3.0, 2.0])).tolist()
    [13.0, 4.0, 0.0]
    """
    return np.append(np.cumsum(sizes[::-1] ** 2)[::-1], 0.0)


DECAYED = tails(DECAY ** np.arange(D))  # Eckart and Young's bound of every E


def draw(kind: str, seed: int) -> Task:
    """A seed's task: its teacher is the same for every kind of inputs."""
    rng = np.random.default_rng([1, seed])
    start, update = rng.standard_normal((D, D)) / np.sqrt(D), decaying(rng)
    x, noise = _inputs(kind, np.random.default_rng([2, INPUTS.index(kind), seed]))
    return Task(start, update, *_as_rows(x, x @ (start + update) + noise))


def decaying(rng: np.random.Generator) -> np.ndarray:
    """A matrix [D, D] with the singular values DECAY^i, between rotations."""
    return (rotation(rng) * DECAY ** np.arange(D)) @ rotation(rng)


def rotation(rng: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix [D, D], uniformly (Mezzadri 2007, Notices AMS 54, p. 592)."""
    q, r = np.linalg.qr(rng.standard_normal((D, D)))
    return q * np.sign(np.diag(r))


def _inputs(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """X [N, D] and the noise of its labels [N, D]; all but the few and the noisy have their covariance exactly."""
    if kind == "white":
        x = np.sqrt(D) * rotation(rng)
    elif kind == "anisotropic":
        x = np.sqrt(D) * rotation(rng) @ (np.sqrt(_variances())[:, None] * rotation(rng))
    else:
        x = rng.standard_normal((FEW if kind == "few" else MANY, D))
    return x, NOISE * rng.standard_normal(x.shape) if kind == "noisy" else np.zeros(x.shape)


def _variances() -> np.ndarray:
    """From 1 down to 1 / CONDITION in equal ratios, scaled to a mean of 1."""
    falling = CONDITION ** (-np.arange(D) / (D - 1))
    return falling / falling.mean()


def _as_rows(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N inputs as D rows whose mean squared error differs by what no update explains: X = Q R, and R has the rows. Fewer get rows of zeros."""
    n = len(x)
    if n > D:
        q, x = np.linalg.qr(x)
        y = q.T @ y
    rows = [np.pad(values, ((0, max(0, D - n)), (0, 0))) for values in (x, y)]
    return rows[0] * np.sqrt(D / n), rows[1] * np.sqrt(D / n)
