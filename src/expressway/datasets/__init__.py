"""Data to try things on: simulated with known truth, and where real data lie."""

from .counts import simulate as simulate
from .draws import Simulation as Simulation
from .folder import data_folder as data_folder
from .mnist import Mnist as Mnist
from .mnist import mnist as mnist
from .pseudotime import Pseudotime as Pseudotime
from .pseudotime import simulate_pseudotime as simulate_pseudotime
from .pseudotime import two_programs as two_programs
from .timecourse import Course as Course
from .timecourse import simulate_timecourse as simulate_timecourse
