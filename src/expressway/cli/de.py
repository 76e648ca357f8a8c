"""`expressway de`: from a table of counts to a folder of results."""

from expressway.models import deseq

from . import analysis, asked, options

EXAMPLE = """\b
Example:
  expressway de counts.csv samples.csv --design '~ cell + dex' \\
      --contrast dex trt untrt --out results --report
"""


def de(
    counts: options.Counts,
    samples: options.Samples = None,
    *,
    design: options.Design,
    out: options.Out,
    contrast: options.FirstContrast = None,
    groups: options.Groups = None,
    plus: options.Plus = None,
    minus: options.Minus = None,
    also: options.Also = None,
    each: options.Each = None,
    reference: options.Reference = None,
    test: options.Test = "wald",
    reduced: options.Reduced = None,
    lfc_threshold: options.LfcThreshold = 0.0,
    alternative: options.Alternative = "greaterAbs",
    shrink: options.Shrink = None,
    alpha: options.Alpha = 0.1,
    no_filter: options.NoFilter = False,
    influence: options.Influence = None,
    intervals: options.Intervals = None,
    top: options.Top = None,
    draws: options.Draws = None,
    size_factors: options.SizeFactors = "ratio",
    size_factors_column: options.SizeFactorsColumn = None,
    control_genes: options.ControlGenes = None,
    offsets: options.Offsets = None,
    weights: options.Weights = None,
    trend: options.Trend = "parametric",
    prior_variance: options.PriorVariance = None,
    cooks_cutoff: options.CooksCutoff = None,
    no_refit: options.NoRefit = False,
    no_keep_larger: options.NoKeepLarger = False,
    within: options.Within = None,
    figures: options.Figures = "png",
    report: options.Report = False,
    tables: options.Tables = "csv",
    memory: options.Memory = None,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Differential expression of counts, with DESeq2's statistics.

    DIR receives results.csv, genes.csv, samples.csv, run.json and figures; with --report also
    report.html; with --shrink also shrunken.csv; with --each also contrasts.h5ad (contrasts x
    genes) and contrasts.csv (a row a contrast); with --influence also influence.csv (a row a gene:
    would its call survive without any single sample); with --intervals also intervals.csv (a row a
    gene: intervals of its fold change and of its rank). With several contrasts there is one
    results_NAME.csv each.
    """
    settings = deseq.Settings(
        size_factors=size_factors,
        prior_variance=prior_variance,
        replace_outliers=not no_refit,
        cooks_cutoff=cooks_cutoff,
        independent_filtering=not no_filter,
        alpha=alpha,
        keep_if_larger=not no_keep_larger,
    )
    contrasts = asked.Contrasts(contrast, groups, plus, minus, also, each, reference)
    tests = asked.Tests(test, reduced, lfc_threshold, alternative, shrink)
    rests = asked.Rests(influence, intervals, top, draws)
    brought = asked.Brought(size_factors_column, control_genes, offsets, weights, trend)
    output = asked.Output(out, within, figures, report, tables, memory, quiet, overwrite)
    analysis.run(
        analysis.Plan(counts, samples, design, contrasts, tests, rests, settings, brought, output)
    )
