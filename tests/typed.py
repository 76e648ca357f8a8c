"""Types and shapes of every call of the package, checked in a fraction of jaxtyping's time.

jaxtyping's import hook has its decorator make two checked twins of each function, also of those
that are defined anew in every call of another, and binds the arguments of each call. Here a
function is checked itself, in a scope of its own for names of axes; of functions in functions
that is made once for each place in the source.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import jaxtyping
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped
_scope = _jaxtyped("context")
_called = threading.local()


class _Made(NamedTuple):
    hints: dict[str, Any]
    typed: Callable[..., Any]


_made: dict[CodeType, _Made] = {}


def install() -> None:
    """Have all that is imported from now on checked."""
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook("expressway", "beartype.beartype")


def checked(fn: Any = None, **settings: Any) -> Any:
    """The function, its arguments and result checked; to stand where ``jaxtyped`` stood."""
    if fn is None:
        return functools.partial(checked, **settings)
    if not isinstance(fn, FunctionType) or inspect.isgeneratorfunction(fn) or _foreign(fn):
        return _jaxtyped(fn, **settings)
    if not fn.__annotations__:
        return fn
    local = "<locals>" in fn.__qualname__
    typed = _of_place(fn) if local else beartype(fn)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # A check of an argument may call others: properties of what a protocol asks for.
        before, _called.fn = getattr(_called, "fn", None), fn
        try:
            with _scope:
                return typed(*args, **kwargs)
        finally:
            _called.fn = before

    return wrapped


def _foreign(fn: FunctionType) -> bool:
    """Whether a hint is a name that its module does not know: imported for type checkers only."""
    hints = [hint for hint in fn.__annotations__.values() if isinstance(hint, str)]
    return any(not hint.isidentifier() or hint not in fn.__globals__ for hint in hints)


def _of_place(fn: FunctionType) -> Callable[..., Any]:
    """One for all functions of a `def`: it checks, and calls the one that was called."""
    made = _made.get(fn.__code__)
    if made is None or made.hints != fn.__annotations__:

        @functools.wraps(fn)
        def anyone(*args: Any, **kwargs: Any) -> Any:
            return _called.fn(*args, **kwargs)

        made = _made[fn.__code__] = _Made(fn.__annotations__, beartype(anyone))
    return made.typed
