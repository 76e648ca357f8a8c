"""Analyses of an AnnData: a table is returned, and stored where `get` finds it."""

from expressway.models.deseq import Settings as Settings

from .cluster import cluster as cluster
from .contrasts import contrast as contrast
from .contrasts import contrasts as contrasts
from .de import check as check
from .de import de as de
from .nested import lrt as lrt
from .nested import ql as ql
from .stability import influence as influence
from .stability import intervals as intervals
from .timecourse import timecourse as timecourse
