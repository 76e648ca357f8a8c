"""Counts prepared for figures and other methods: layers of an AnnData."""

from .fitted import Transform as Transform
from .fitted import load_transform as load_transform
from .transforms import normalise as normalise
from .transforms import rlog as rlog
from .transforms import vst as vst
