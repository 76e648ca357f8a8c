"""Data to try things on: simulated with known truth, and published ones."""

from .counts import simulate as simulate
from .draws import Simulation as Simulation
from .folder import data_folder as data_folder
from .mnist import Mnist as Mnist
from .mnist import mnist as mnist
from .pseudotime import Pseudotime as Pseudotime
from .pseudotime import simulate_pseudotime as simulate_pseudotime
from .pseudotime import two_programs as two_programs
from .real import airway as airway
from .real import fission as fission
from .real import lcl3 as lcl3
from .real import pasilla as pasilla
from .real import paul15 as paul15
from .real import paul15_240 as paul15_240
from .real import shoemaker500 as shoemaker500
from .timecourse import Course as Course
from .timecourse import simulate_timecourse as simulate_timecourse
