"""Genes clustered by the coefficients of their curves along time or pseudotime.

`tl.cluster` makes a `Clusters`; it can be asked for tables, clustered again with another prior,
saved and loaded.
"""

from expressway.models.dirichlet import REQUEST as REQUEST
from expressway.models.dirichlet import Prior as Prior

from .file import load as load
from .result import Clusters as Clusters
from .run import analyse as analyse
from .steps import DEFAULTS as DEFAULTS
from .steps import Settings as Settings
