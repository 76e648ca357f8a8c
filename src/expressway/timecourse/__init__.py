"""Time courses: curves of genes, their clusters, cross-validation over time points, influence.

`tl.timecourse` makes a `Courses`; it can be asked for tables, saved, loaded, and asked what would
be without some time points or samples.
"""

from .file import load as load
from .result import Courses as Courses
from .result import Without as Without
from .run import CV as CV
from .run import analyse as analyse
from .steps import DEFAULTS as DEFAULTS
from .steps import PUBLISHED as PUBLISHED
from .steps import STATUSES as STATUSES
from .steps import Settings as Settings
