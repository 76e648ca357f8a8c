"""Numbers as the command line writes them: lists and ranges."""

from expressway import io


def whole(text: str, option: str) -> list[int]:
    """``"4:8"`` is 4 to 8, ``"4,6"`` is 4 and 6.

    Raises
    ------
    InputError
        It is neither.
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            first, colon, last = part.partition(":")
            found += range(int(first), int(last if colon else first) + 1)
    except ValueError:
        found = []
    if not found:
        msg = f"{option} {text}: needed are whole numbers, like 7, 4,6,8 or 4:8"
        raise io.InputError(msg)
    return found


def numbers(text: str | None, option: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises
    ------
    InputError
        They are none.
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        msg = f"{option} {text}: needed are numbers between commas, like 72,120,168"
        raise io.InputError(msg) from None


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """``COLUMN=VALUE`` of each text.

    Raises
    ------
    InputError
        There is no equals sign, or nothing beside it.
    """
    found = {}
    for text in texts or []:
        column, equals, value = text.partition("=")
        if not (column and equals and value):
            msg = f"{option} {text}: needs COLUMN=VALUE, for example Group=C"
            raise io.InputError(msg)
        found[column] = value
    return found
