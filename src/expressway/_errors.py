"""What a user's mistake looks like."""


class InputError(ValueError):
    """A mistake in the user's files, table or arguments.

    The message is one line: what was got, what is needed, what to do.
    """


class Unfinished(RuntimeError):
    """A solver stopped before a solution; ``point`` is where, and can be gone on from."""

    def __init__(self, message: str, point: object) -> None:
        super().__init__(message)
        self.point = point


class NotAnOptimum(ValueError):
    """A point that is asked for derivatives of an optimum is none."""


class Saddle(NotAnOptimum):
    """The gradient vanishes, but the Hessian has a negative eigenvalue."""


class SingularJacobian(ValueError):
    """A solution is not determined along some direction, so that it has no derivative."""


class Indefinite(ValueError):
    """A matrix that must be positive definite is not."""

    @classmethod
    def of(cls, value: float, what: str, matrix: str = "matrix") -> "Indefinite":
        """The error for a value, and what it is: "Ritz value", "eigenvalue"."""
        return cls(
            f"the {matrix} is not positive definite: {what} {value:.4g}; run the fit to an optimum,"
            f' take kind="gauss-newton", or add a prior: prior_precision above {-min(value, 0):.2g}'
        )
