"""Figures: each takes tables and returns the matplotlib Axes it drew on, or an array of several.

No pyplot and no global state: safe without a display and in threads. Save with
``ax.figure.savefig("ma.png")``; in a notebook, end the cell with ``ax.figure``.
"""

from .basis import basis as basis
from .calibration import calibration as calibration
from .cluster_influence import cluster_influence as cluster_influence
from .clusters import clusters as clusters
from .co_clustering import co_clustering as co_clustering
from .component_weights import component_weights as component_weights
from .cooks import cooks as cooks
from .counts import counts as counts
from .cross_validation import cross_validation as cross_validation
from .curves import curves as curves
from .dispersion import dispersion as dispersion
from .elbo import elbo as elbo
from .fold_errors import fold_errors as fold_errors
from .heatmap import heatmap as heatmap
from .ma import ma as ma
from .module_composition import module_composition as module_composition
from .modules import modules as modules
from .p_values import p_values as p_values
from .pca import pca as pca
from .predictive import predictive as predictive
from .ranks import ranks as ranks
from .sample_distances import sample_distances as sample_distances
from .scaling import scaling as scaling
from .volcano import volcano as volcano
