"""How wide texts are, and shorter ones."""

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path


def length(text: str, size: float) -> float:
    """Return the width of a text in points."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def shortened(text: str, room: float, size: float) -> str:
    """Return a text that is no wider than so many points: its middle goes first."""
    if length(text, size) <= room:
        return text
    kept = len(text) - 1
    while kept > 2 and length(_without_middle(text, kept), size) > room:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return text[: -(-kept // 2)] + "…" + text[len(text) - kept // 2 :]
