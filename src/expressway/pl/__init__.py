"""Figures: each takes tables and returns the matplotlib Axes it drew on, or an array of several.

No pyplot and no global state: safe without a display and in threads. Save with
``ax.figure.savefig("ma.png")``; in a notebook, end the cell with ``ax.figure``.
"""

from .basis import basis as basis
from .clusters import clusters as clusters
from .curves import curves as curves
from .dispersion import dispersion as dispersion
from .ma import ma as ma
from .volcano import volcano as volcano
