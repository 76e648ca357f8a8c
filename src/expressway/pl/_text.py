"""How wide texts are, and shorter ones."""

import functools

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path


# A figure asks again and again for the names of its samples.
@functools.lru_cache(10_000)
def length(text: str, size: float) -> float:
    """Return the width of a text in points."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


@functools.lru_cache(10_000)
def shortened(text: str, room: float, size: float) -> str:
    """Return a text that is no wider than so many points: its middle goes first."""
    whole = length(text, size)
    if whole <= room:
        return text
    kept = len(text) - 1
    # A little more than the share that fits, and from there one letter at a time.
    kept = max(2, min(kept, int(1.25 * kept * room / whole) + 2))
    while kept < len(text) - 1 and length(_without_middle(text, kept), size) <= room:
        kept += 1
    while kept > 2 and length(_without_middle(text, kept), size) > room:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return text[: -(-kept // 2)] + "…" + text[len(text) - kept // 2 :]
