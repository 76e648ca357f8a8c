"""A preconditioner that is never above its matrix: a randomised Nyström approximation.

Of A, with a proven lower bound mu > 0 of its spectrum (a prior's precision), the part G = A - mu I
is positive semidefinite. Products of G with r random vectors, the rows of Omega, give

    G^ = (Omega G)' (Omega G Omega')⁺ (Omega G) = U' diag(values) U        (U: r × d)

(Frangella, Tropp & Udell 2021, arXiv:2110.02820, algorithm 2.1), and P = G^ + mu I.

**All eigenvalues of P^-1/2 A P^-1/2 are at least 1.** With Q the orthogonal projector on the range
of G^1/2 Omega', G^ = G^1/2 Q G^1/2 <= G^1/2 G^1/2 = G, as Q <= I. So P = G^ + mu I <= G + mu I = A,
and P^-1/2 (A - P) P^-1/2 is positive semidefinite.

In floating point the products are those of a matrix near G, and a shift (their rounding) is added
to G before and taken from the values after, so that G^ <= G + slack I, slack some multiples of
eps |A|. As also A >= mu I, the share f of the first and 1 - f of the second gives A >= f P with
f = mu / (mu + slack): that is `Nystrom.floor`, 1 but for rounding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from expressway._errors import Indefinite, InputError
from expressway._types import Array, Float

from .operator import Operator

# Rows that an operator multiplies at a time, so that it is compiled for few shapes.
TOGETHER = 64
# Shift, in units of eps |A|: above the rounding of the products, so that the small matrix is
# positive definite.
SHIFT = 4.0
# How far above G the approximation may be for rounding, in units of the shift. Spectra of the tests
# give less than one.
SLACK = 8.0
# Numbers that are held in float64 at a time.
_CHUNK = 2**22


class Nystrom(NamedTuple):
    """``P = U' diag(values) U + damping I``, below its matrix A and near it."""

    vectors: Float[Array, "r d"]
    """U: orthonormal rows."""
    values: Float[Array, "r"]
    """From the largest to the smallest, not negative."""
    damping: Any
    """The proven lower bound of A's spectrum that was taken from A."""
    slack: Any = 0.0
    """P is below A + slack I whatever was rounded."""

    @property
    def floor(self) -> Any:
        """Lower bound of the spectrum of P^-1/2 A P^-1/2: 1 but for rounding."""
        return self.damping / (self.damping + self.slack)

    def solve(self, rows: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """``P⁻¹`` times each row."""
        return self._power(rows, -1.0)

    def inverse_root(self, rows: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """``P^-1/2`` times each row: of covariance P⁻¹ where the rows are white noise."""
        return self._power(rows, -0.5)

    def root(self, rows: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """``P^1/2`` times each row."""
        return self._power(rows, 0.5)

    def _power(self, rows: Any, power: float) -> Any:
        inside = (np.asarray(self.values) + self.damping) ** power
        return _spectral(self.vectors, inside, self.damping**power, rows)


@jax.jit
def _spectral(vectors: Any, inside: Any, outside: Any, rows: Any) -> Any:
    """The matrix with eigenvalues ``inside`` on the vectors and ``outside`` elsewhere."""
    along, rest = split(vectors, rows)
    scaled = along * inside.astype(rows.dtype)[None]
    return rest * jnp.asarray(outside, rows.dtype) + scaled @ vectors


def split(vectors: Any, rows: Any) -> tuple[Any, Any]:
    """Coefficients of rows along the vectors, and what is left of the rows.

    What is left is divided by the damping, the coefficients by far more: apart, nothing cancels. In
    float32 the rounding of the first subtraction, divided by the damping, would outweigh rows that
    lie along the vectors: it is projected once more.
    """
    along = rows @ vectors.T
    rest = rows - along @ vectors
    if rows.dtype == jnp.float32:
        again = rest @ vectors.T
        along, rest = along + again, rest - again @ vectors
    return along, rest


def nystrom(operator: Operator, rank: int, key: Any) -> Nystrom:
    """The approximation from ``rank`` random vectors, so as many products.

    Parameters
    ----------
    operator
        With `Operator.lower` above 0.
    rank
        At most half of ``operator.size`` are used: beyond, a factorisation costs less, and square
        random matrices are nearly singular.
    key
        JAX's random key.

    Raises
    ------
    InputError
        The operator has no proven lower bound, or one that is not above 0.
    Indefinite
        The bound is no bound: products show an eigenvalue below it.
    """
    mu = _shift(operator)
    tests, products = _extended(operator, mu, _none(operator), rank, key)
    return _approximation(tests, products, mu)


def adapted(
    operator: Operator, key: Any, *, first: int = 32, most: int = 512, ratio: float = 10.0
) -> Nystrom:
    """The approximation of a rank that is doubled until the rest of G is small.

    Products that were made are used again.

    Parameters
    ----------
    operator, key
        As of `nystrom`.
    first
        Rank to start with.
    most
        Largest rank; three arrays of that many rows are held.
    ratio
        Doubled while the last value is above so many times the damping: the condition of the
        preconditioned matrix is then of this order, and conjugate gradients gain a digit in about
        ``sqrt(ratio)`` steps.
    """
    mu, most = _shift(operator), min(most, _half(operator))
    rank, made = min(first, most), _none(operator)
    while True:
        made = _extended(operator, mu, made, rank, key)
        found = _approximation(*made, mu)
        # What was dropped as rounding is small already.
        small = len(found.values) < rank or found.values[-1] <= ratio * mu
        if small or rank >= most:
            return found
        rank = min(2 * rank, most)


def _shift(operator: Operator) -> float:
    """The multiple of the identity that is taken from A."""
    if operator.lower is None or not operator.lower > 0:
        msg = (
            "a Nyström preconditioner of a matrix without a proven lower bound of its spectrum "
            f"(got {operator.lower}): give a prior precision above 0 and a Gauss-Newton or Fisher "
            "matrix, or operator.bounded(lower)"
        )
        raise InputError(msg)
    return float(operator.lower)


def _half(operator: Operator) -> int:
    """The largest rank."""
    return (operator.size + 1) // 2


def _none(operator: Operator) -> tuple[np.ndarray, np.ndarray]:
    """No test vectors, and their products."""
    none = np.empty((0, operator.size), operator.dtype)
    return none, none


def _extended(
    operator: Operator, mu: float, made: tuple[Any, Any], rank: int, key: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Test vectors and their products with A - mu I: those there are, and more up to ``rank``."""
    tests, products = made
    rank = min(rank, _half(operator))
    if rank < 1:
        message = f"a Nyström approximation of rank {rank}: at least 1 is needed"
        raise InputError(message)
    seed = [*np.asarray(jax.random.key_data(key)).ravel().tolist(), len(tests)]
    new = np.random.default_rng(seed).standard_normal(
        (rank - len(tests), operator.size), dtype=tests.dtype
    )
    images = [product(operator, new[i : i + TOGETHER]) for i in range(0, len(new), TOGETHER)]
    image = np.concatenate(images)
    image -= new.dtype.type(mu) * new
    return np.concatenate([tests, new]), np.concatenate([products, image])


def width(n: int) -> int:
    """The power of two that n rows are padded to: few shapes are compiled."""
    return 1 << (n - 1).bit_length()


def product(operator: Operator, rows: np.ndarray) -> np.ndarray:
    """``A`` times each row, on the host; of a padded number of rows."""
    padded = np.zeros((width(len(rows)), operator.size), operator.dtype)
    padded[: len(rows)] = rows
    return np.array(operator.rows(jnp.asarray(padded))[: len(rows)])


def _columns(d: int, r: int) -> Iterator[slice]:
    """Parts of the d columns that are held in float64."""
    step = max(_CHUNK // max(r, 1), 1)
    return (slice(i, i + step) for i in range(0, d, step))


def _gram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a b'`` in float64."""
    total = np.zeros((len(a), len(b)))
    for part in _columns(a.shape[1], len(a)):
        total += a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T
    return total


def _approximation(tests: np.ndarray, products: np.ndarray, mu: float) -> Nystrom:
    """From test vectors and their products with G: three passes over them, and matrices of r × r.

    The Gram matrix of B (B'B = G^ + shift on the test vectors) has eigenvalues to eps times the
    largest, but vectors from it are orthogonal only to eps times its condition: their own Gram
    matrix corrects them and the values.
    """
    r, d = tests.shape
    lower = linalg.cholesky(_gram(tests, tests), lower=True)
    small = linalg.solve_triangular(lower, _gram(tests, products), lower=True)
    small = linalg.solve_triangular(lower, small.T, lower=True)
    energy, basis = np.linalg.eigh((small + small.T) / 2)
    eps = float(np.finfo(tests.dtype).eps)
    size = max(float(energy[-1]), 0.0) + mu
    if not np.isfinite(size):
        message = "products with random vectors are not finite: check the operator"
        raise InputError(message)
    # More than the root of eps below 0 is no rounding.
    if energy[0] < -np.sqrt(eps) * size:
        raise Indefinite.of(mu + float(energy[0]), f"said to be at least {mu:.3g}, Ritz value")
    shift = max(SHIFT * eps * size, -2 * float(energy[0]))
    factor = linalg.solve_triangular(lower.T, basis / np.sqrt(energy + shift)[None]).T

    gram = np.zeros((r, r))
    for part in _columns(d, r):
        b = factor @ (products[:, part] + shift * tests[:, part].astype(np.float64))
        gram += b @ b.T
    squares, turn = np.linalg.eigh(gram)
    # Below that, an eigenvalue is the shift and rounding.
    kept = squares > 2 * shift
    factor = (turn[:, kept] / np.sqrt(squares[kept])[None]).T @ factor
    vectors = np.empty((int(kept.sum()), d), tests.dtype)
    for part in _columns(d, r):
        vectors[:, part] = factor @ (products[:, part] + shift * tests[:, part].astype(np.float64))
    if len(vectors) == 0:
        return Nystrom(jnp.asarray(vectors), jnp.zeros(0), mu, SLACK * shift)
    half = linalg.cholesky(_gram(vectors, vectors), lower=True)
    values, turn = np.linalg.eigh(half.T @ (squares[kept][:, None] * half))
    values, turn = values[::-1], turn[:, ::-1]
    final = linalg.solve_triangular(half.T, turn).T
    for part in _columns(d, r):
        vectors[:, part] = final @ vectors[:, part].astype(np.float64)
    return Nystrom(
        jnp.asarray(vectors), jnp.asarray(np.maximum(values - shift, 0.0)), mu, SLACK * shift
    )
