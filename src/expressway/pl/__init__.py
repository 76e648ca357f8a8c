"""Figures: each function takes a table and returns the matplotlib Axes it drew on.

No pyplot and no global state: safe without a display and in threads. Save with
``ax.figure.savefig("ma.png")``; in a notebook, end the cell with ``ax.figure``.
"""

from .dispersion import dispersion as dispersion
from .ma import ma as ma
from .volcano import volcano as volcano
