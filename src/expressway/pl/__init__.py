"""Figures: each takes tables and returns the matplotlib Axes it drew on, or an array of several.

No pyplot and no global state: safe without a display and in threads. Save with
``ax.figure.savefig("ma.png")``; in a notebook, end the cell with ``ax.figure``.
"""

from .basis import basis as basis
from .cluster_influence import cluster_influence as cluster_influence
from .clusters import clusters as clusters
from .cross_validation import cross_validation as cross_validation
from .curves import curves as curves
from .dispersion import dispersion as dispersion
from .fold_errors import fold_errors as fold_errors
from .ma import ma as ma
from .volcano import volcano as volcano
