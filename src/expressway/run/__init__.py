"""Where rows live, beyond one table in this process's memory."""

from .checkpoint import Checkpoint as Checkpoint
from .federation import Federation as Federation
from .federation import Ledger as Ledger
from .protocol import ProtocolError as ProtocolError
from .protocol import Site as Site
from .sites import Sites as Sites
