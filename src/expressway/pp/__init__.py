"""Counts prepared: summed over cells, or transformed for figures and other methods."""

from .fitted import Transform as Transform
from .fitted import load_transform as load_transform
from .pseudobulk import pseudobulk as pseudobulk
from .transforms import normalise as normalise
from .transforms import rlog as rlog
from .transforms import vst as vst
