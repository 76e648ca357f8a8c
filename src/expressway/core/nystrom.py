"""A preconditioner that is never above its matrix: a randomised Nyström approximation.

Of A, with a proven lower bound mu > 0 of its spectrum (a prior's precision), the part G = A - mu I
is positive semidefinite. Products of G with r random vectors, the rows of Omega, give

    G^ = (Omega G)' (Omega G Omega')⁺ (Omega G) = U' diag(values) U        (U: r × d)

(Frangella, Tropp & Udell 2021, arXiv:2110.02820, algorithm 2.1), and P = G^ + mu I.

**All eigenvalues of P^-1/2 A P^-1/2 are at least 1.** With Q the orthogonal projector on the range
of G^1/2 Omega', G^ = G^1/2 Q G^1/2 <= G^1/2 G^1/2 = G, as Q <= I. So P = G^ + mu I <= G + mu I = A,
and P^-1/2 (A - P) P^-1/2 is positive semidefinite.

In floating point the small matrix needs a shift, some eps |A| |omega|², to be positive definite.
The published algorithm shifts G, and takes the shift from the values; then G^ may be above G by it.
Here Omega G Omega' alone is shifted: its inverse gets smaller, and so does G^, and nothing need be
taken off. What is left is the rounding of the products, which are those of a matrix near G: G^ <= G
+ slack I, slack some eps |A|. As also A >= mu I, the share f of the first and 1 - f of the second
gives A >= f P with f = mu / (mu + slack): that is `Nystrom.floor`, 1 but for rounding.
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
from .threads import one_each

# Rows that an operator multiplies at a time, so that it is compiled for few shapes.
TOGETHER = 64
# Shift, in units of eps |A|: above the rounding of the products.
SHIFT = 4.0
# How far above G the approximation may be for rounding, in units of the shift: six spectra of
# condition 35 to 1e9 gave .4 at most.
SLACK = 2.0
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
    return _approximation(products, _factor(tests, products, mu), mu)


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
        found = _factor(*made, mu)
        # What was dropped as rounding is small already.
        small = len(found.squares) < rank or found.squares[-1] <= ratio * mu
        if small or rank >= most:
            return _approximation(made[1], found, mu)
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
    nothing = np.empty((0, operator.size), operator.dtype)
    return nothing, nothing


def _extended(
    operator: Operator, mu: float, made: tuple[Any, Any], rank: int, key: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Test vectors and their products with A - mu I: those there are, and more up to ``rank``."""
    tests, products = made
    rank = min(rank, _half(operator))
    if rank < 1:
        msg = f"a Nyström approximation of rank {rank}: at least 1 is needed"
        raise InputError(msg)
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
    return np.array(operator.rows(jax.device_put(padded))[: len(rows)])


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


@one_each()
def _eigh(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors of a matrix that is symmetric but for rounding."""
    values, vectors = np.linalg.eigh((a + a.T) / 2)
    return values, vectors


class _Factor(NamedTuple):
    """``B = matrix @ products``, with ``B'B`` the approximation of G."""

    matrix: np.ndarray
    squares: np.ndarray
    """Eigenvalues of ``B B'``, of the approximation then, from the largest."""
    slack: float


def _factor(tests: np.ndarray, products: np.ndarray, mu: float) -> _Factor:
    """From test vectors and their products with G: two passes over them."""
    r, d = tests.shape
    small = _gram(tests, products)
    if not np.isfinite(small).all():
        msg = "products with random vectors are not finite: check the operator"
        raise InputError(msg)
    energy, basis = _eigh(small)
    eps = float(np.finfo(tests.dtype).eps)
    # Squared lengths of the test vectors are about d.
    size = max(float(energy[-1]) / d, 0.0) + mu
    least = float(energy[0]) / d
    # More than the root of eps below 0 is no rounding.
    if least < -np.sqrt(eps) * size:
        raise Indefinite.of(mu + least, f"said to be at least {mu:.3g}, Ritz value")
    shift = max(SHIFT * eps * size, -2 * least)
    matrix = (basis / np.sqrt(energy + d * shift)[None]).T
    gram = np.zeros((r, r))
    for part in _columns(d, r):
        b = matrix @ products[:, part].astype(np.float64)
        gram += b @ b.T
    squares, turn = (a[..., ::-1] for a in _eigh(gram))
    # Below the shift, an eigenvalue is rounding.
    kept = squares > shift
    matrix = (turn[:, kept] / np.sqrt(squares[kept])[None]).T @ matrix
    return _Factor(matrix, squares[kept], SLACK * shift)


def _approximation(products: np.ndarray, factor: _Factor, mu: float) -> Nystrom:
    """Vectors and values.

    Eigenvectors from the Gram matrix of B are orthogonal only to eps times its condition: their own
    Gram matrix corrects them and the values.
    """
    vectors = np.empty((len(factor.squares), products.shape[1]), products.dtype)
    if len(vectors) == 0:
        return Nystrom(jax.device_put(vectors), jax.device_put(factor.squares), mu, factor.slack)
    for part in _columns(*products.shape[::-1]):
        vectors[:, part] = factor.matrix @ products[:, part].astype(np.float64)
    half = np.linalg.cholesky(_gram(vectors, vectors))
    values, turn = _eigh(half.T @ (factor.squares[:, None] * half))
    values, turn = np.maximum(values[::-1], 0.0), turn[:, ::-1]
    final = linalg.solve_triangular(half.T, turn).T
    for part in _columns(*vectors.shape[::-1]):
        vectors[:, part] = final @ vectors[:, part].astype(np.float64)
    return Nystrom(jax.device_put(vectors), jax.device_put(values), mu, factor.slack)
