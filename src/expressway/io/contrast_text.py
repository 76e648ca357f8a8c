"""Groups of combinations of levels as text: ``strain=wt minute=120,180``."""

import re
from collections.abc import Collection, Mapping, Sequence

from expressway._errors import InputError

Level = str | float | int
Group = Mapping[str, Level | Collection[Level]]
Levels = Mapping[str, Sequence[str]]

ALL = "all"
_WORD = r"""'[^']*'|"[^"]*"|[^\s,='"]+"""
_PAIR = re.compile(rf"({_WORD})=((?:{_WORD})(?:,(?:{_WORD}))*)(?:\s+|$)")


def levels_of(group: Group) -> dict[str, list[str]]:
    """Return the levels of each factor as text, each once.

    Raises
    ------
    InputError
        A factor without levels.
    """
    found = {}
    for factor, levels in group.items():
        several = [levels] if isinstance(levels, Level) else list(levels)
        if not several:
            message = f"group {group}: no level of {factor} is given; leave it out to mean all"
            raise InputError(message)
        found[str(factor)] = list(dict.fromkeys(map(str, several)))
    return found


def group_text(group: Group) -> str:
    """Return what `parse_group` reads as this group: ``strain=wt minute=120,180``."""
    pairs = (
        f"{_quoted(factor)}={','.join(map(_quoted, levels))}"
        for factor, levels in levels_of(group).items()
    )
    return " ".join(pairs) or ALL


def parse_group(text: str) -> dict[str, list[str]]:
    """Return the levels that a text allows of each factor that it names.

    Parameters
    ----------
    text
        ``FACTOR=LEVEL,LEVEL``, several with spaces between; ``all`` for all levels of all factors.
        Names with spaces, commas, quotes or equals signs stand in quotes: ``dose='2 mg',"4 mg"``.

    Raises
    ------
    InputError
        It is something else, or names a factor twice.
    """
    left, found = text.strip(), {}
    if left == ALL:
        return {}
    while pair := _PAIR.match(left):
        factor, levels = _bare(pair[1]), [_bare(word) for word in re.findall(_WORD, pair[2])]
        if factor in found:
            message = f"group '{text}' names {factor} twice; list its levels once, with commas"
            raise InputError(message)
        found[factor] = list(dict.fromkeys(levels))
        left = left[pair.end() :]
    if left or not found:
        message = (
            f"group '{text}' cannot be read: needs FACTOR=LEVEL,LEVEL, several with spaces between "
            f"(strain=wt minute=120,180), or {ALL}"
        )
        raise InputError(message)
    return found


def _quoted(word: str) -> str:
    if re.fullmatch(r"[^\s,='\"]+", word):
        return word
    return f'"{word}"' if '"' not in word else f"'{word}'"


def _bare(word: str) -> str:
    return word[1:-1] if word[0] in "'\"" else word
