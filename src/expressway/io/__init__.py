"""Files, sample tables and formulas on one side, arrays on the other."""

from expressway._errors import InputError as InputError

from .check import check_counts as check_counts
from .choose import numeric as numeric
from .contrast import Contrast as Contrast
from .contrast import Differences as Differences
from .contrast import contrast as contrast
from .contrast import differences as differences
from .design import Design as Design
from .design import design as design
from .load import WORKING as WORKING
from .load import by_gene as by_gene
from .load import on_disk as on_disk
from .load import parse_bytes as parse_bytes
from .read import has_samples as has_samples
from .read import read_counts as read_counts
from .read import read_expression as read_expression
from .read import read_samples as read_samples
from .record import Clock as Clock
from .record import digest as digest
from .record import peak_memory as peak_memory
from .record import resident_memory as resident_memory
from .record import versions as versions
from .sites import read_sites as read_sites
from .tables import Influences as Influences
from .tables import coefficients_table as coefficients_table
from .tables import contrasts_table as contrasts_table
from .tables import genes_table as genes_table
from .tables import influence_table as influence_table
from .tables import results_table as results_table
from .tables import samples_table as samples_table
from .tables import survival_table as survival_table
from .write import check_folder as check_folder
from .write import write_json as write_json
from .write import write_table as write_table
from .write import written_folder as written_folder
