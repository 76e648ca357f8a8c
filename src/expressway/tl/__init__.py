"""Analyses of an AnnData: a table is returned, and stored where `get` finds it."""

from expressway.io import Inputs as Inputs
from expressway.models.deseq import Settings as Settings

from .cluster import cluster as cluster
from .contrasts import contrast as contrast
from .contrasts import contrasts as contrasts
from .cooks import cooks as cooks
from .de import check as check
from .de import de as de
from .each import Each as Each
from .each import de_each as de_each
from .nested import lrt as lrt
from .nested import ql as ql
from .shrink import shrink as shrink
from .stability import influence as influence
from .stability import intervals as intervals
from .tested import test as test
from .timecourse import timecourse as timecourse
