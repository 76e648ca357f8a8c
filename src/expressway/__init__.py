"""Gene-expression analysis by M-estimation: fit a model fast, then differentiate the fit."""

from . import datasets as datasets
from . import federated as federated
from . import get as get
from . import io as io
from . import pl as pl
from . import tl as tl
from ._version import __version__ as __version__
