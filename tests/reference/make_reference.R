# Reference numbers for the tests, from R's DESeq2 on small simulated data.
#
#   Rscript tests/reference/make_reference.R [folder]
#
# writes one JSON file a case, and lowess.json and trend.json, into the folder (default: the script's own).
# The simulated counts are stored in the files, so the tests need no R. Numbers carry as many digits (15 to 17)
# as it takes to read the same double back; NA is null. Genes and samples stand in the order of `genes` and `samples`.
#
# Run with R 4.2.2 and DESeq2 1.38.3 (each file names the versions that made it).

suppressMessages(library(DESeq2))

# ---- JSON ------------------------------------------------------------------------------------------------------

number <- function(x) {
  if (is.logical(x)) return(ifelse(is.na(x), "null", ifelse(x, "true", "false")))
  if (is.integer(x)) return(ifelse(is.na(x), "null", sprintf("%d", x)))
  out <- sprintf("%.15g", x)
  stopifnot(!any(is.infinite(x)))
  known <- which(!is.na(x))
  for (digits in 16:17) {
    short <- known[as.numeric(out[known]) != x[known]]
    out[short] <- sprintf(paste0("%.", digits, "g"), x[short])
  }
  ifelse(is.na(x), "null", out)
}
quoted <- function(x) paste0("\"", gsub("\"", "\\\\\"", x), "\"")
scalar <- function(x) structure(x, class = c("scalar", class(x)))
json <- function(x, indent = "") {
  inner <- paste0(indent, " ")
  if (is.null(x)) return("null")
  if (is.list(x)) {
    items <- vapply(x, json, "", indent = inner)
    if (!is.null(names(x))) items <- paste0(quoted(names(x)), ": ", items)
    ends <- if (is.null(names(x))) c("[", "]") else c("{", "}")
    return(paste0(ends[1], "\n", paste0(inner, items, collapse = ",\n"), "\n", indent, ends[2]))
  }
  if (is.matrix(x)) {
    rows <- apply(x, 1, function(row) paste0("[", paste(number(unname(row)), collapse = ","), "]"))
    return(paste0("[\n", paste0(inner, rows, collapse = ",\n"), "\n", indent, "]"))
  }
  single <- inherits(x, "scalar")
  x <- unname(if (single) unclass(x) else x)
  text <- if (is.character(x)) ifelse(is.na(x), "null", quoted(x)) else number(x)
  if (single) text else paste0("[", paste(text, collapse = ","), "]")
}
save_json <- function(x, name) {
  path <- file.path(folder, paste0(name, ".json"))
  writeLines(json(x), path)
  cat(sprintf("%-18s %7d bytes\n", basename(path), file.size(path)))
}

versions <- list(R = scalar(paste(R.version$major, R.version$minor, sep = ".")),
                 DESeq2 = scalar(as.character(packageVersion("DESeq2"))))

# ---- simulation ------------------------------------------------------------------------------------------------

# Negative-binomial counts with dispersion .05 + 2/mean times log-normal scatter, and the odd genes a case asks for.
# `groups`: the sample's group for separated genes (two levels). `log2_effects`: genes x columns of X, the first 0.
simulate <- function(case, samples, X) {
  set.seed(case$seed)
  n <- nrow(samples)
  depth <- exp(rnorm(n, 0, .25))
  odd <- case$odd
  base <- exp(rnorm(case$genes, log(120), 1.5))
  low <- case$low
  base[seq_len(low)] <- runif(low, .1, 3)
  alpha <- (.05 + 2 / base) * exp(rnorm(case$genes, 0, case$scatter))
  effects <- matrix(0, case$genes, ncol(X))
  for (j in seq_len(ncol(X))[-1]) {
    changed <- runif(case$genes) < .3
    effects[changed, j] <- rnorm(sum(changed), 0, 1.2) / max(1, max(abs(X[, j])))
  }
  if (!case$intercept) effects[, 1] <- rnorm(case$genes, 0, .6)
  mu <- base * 2^(effects %*% t(X)) * rep(depth, each = case$genes)
  counts <- matrix(rnbinom(length(mu), mu = mu, size = 1 / alpha), nrow(mu))
  kind <- c(rep("low", low), rep("plain", case$genes - low))
  add <- function(rows, label) {
    counts <<- rbind(counts, rows)
    kind <<- c(kind, rep(label, nrow(rows)))
  }
  draw <- function(k, mean, alpha) {
    m <- mean * rep(depth, each = k)
    matrix(rnbinom(k * n, mu = m, size = 1 / alpha), k)
  }
  if (odd["zero"] > 0) add(matrix(0L, odd["zero"], n), "all_zero")
  if (odd["separated"] > 0) {
    rows <- draw(odd["separated"], 40, .1)
    half <- seq_len(odd["separated"]) %% 2 == 0
    first <- case$groups(samples)
    rows[half, first] <- 0
    rows[!half, !first] <- 0
    add(rows, "separated")
  }
  if (odd["outlier"] > 0) {
    k <- odd["outlier"]
    rows <- draw(k, exp(runif(k, log(20), log(400))), .1)
    at <- cbind(seq_len(k), sample(n, k, replace = TRUE))
    rows[at] <- rows[at] * 100 + 5000
    add(rows, "outlier")
  }
  if (odd["kept"] > 0) {  # an outlier in the low group, below every count of the high one: a two-group design keeps such a gene
    k <- odd["kept"]
    first <- case$groups(samples)
    rows <- draw(k, 5000, .05)
    rows[, first] <- draw(k, 8, .05)[, first]
    rows[cbind(seq_len(k), sample(which(first), k, replace = TRUE))] <- 600L
    add(rows, "kept")
  }
  if (odd["single"] > 0) {
    rows <- matrix(0L, odd["single"], n)
    rows[cbind(seq_len(odd["single"]), sample(n, odd["single"], replace = TRUE))] <- 500L
    add(rows, "single")
  }
  if (odd["constant"] > 0) add(matrix(rep(c(1L, 7L, 60L, 1000L), length.out = odd["constant"]), odd["constant"], n), "constant")
  if (odd["huge"] > 0) {
    k <- odd["huge"]
    rows <- draw(k, exp(runif(k, log(1e6), log(1e7))), .05)
    add(rows, "huge")
  }
  order <- sample(nrow(counts))
  counts <- counts[order, ]
  storage.mode(counts) <- "integer"
  dimnames(counts) <- list(sprintf("g%03d", seq_len(nrow(counts))), rownames(samples))
  list(counts = counts, kind = kind[order])
}

# ---- one case, stage by stage ----------------------------------------------------------------------------------

run_case <- function(name, case) {
  samples <- case$samples
  rownames(samples) <- sprintf("s%02d", seq_len(nrow(samples)))
  X <- model.matrix(case$design, samples)
  simulated <- simulate(case, samples, X)
  counts <- simulated$counts
  dds <- DESeqDataSetFromMatrix(counts, samples, case$design)
  dds <- estimateSizeFactors(dds, quiet = TRUE)
  poscounts <- sizeFactors(estimateSizeFactors(dds, type = "poscounts", quiet = TRUE))
  stage <- estimateDispersionsGeneEst(dds, quiet = TRUE)
  stage <- estimateDispersionsFit(stage, quiet = TRUE)
  stage <- estimateDispersionsMAP(stage, quiet = TRUE)
  before <- nbinomWaldTest(stage, quiet = TRUE)
  refit <- any(DESeq2:::nOrMoreInCell(attr(before, "modelMatrix"), 7))
  fit <- if (!refit) before else
    DESeq2:::refitWithoutOutliers(before, test = "Wald", betaPrior = FALSE, full = case$design, reduced = NULL, quiet = TRUE,
                                  minReplicatesForReplace = 7, modelMatrix = NULL, modelMatrixType = "standard")
  whole <- DESeq(DESeqDataSetFromMatrix(counts, samples, case$design), quiet = TRUE)
  stopifnot(identical(coef(whole), coef(fit)), identical(dispersions(whole), dispersions(fit)),
            identical(results(whole)$padj, results(fit)$padj))
  trend <- dispersionFunction(fit)
  if (attr(trend, "fitType") != "parametric") stop(name, ": the parametric trend failed")
  columns <- c("baseMean", "baseVar", "allZero", "dispGeneEst", "dispGeneIter", "dispFit", "dispMAP", "dispIter",
               "dispersion", "dispOutlier", "betaConv", "betaIter", "deviance", "maxCooks", "replace")
  table_of <- function(object, rows = seq_len(nrow(object)), which = columns) {
    m <- mcols(object)
    sapply(which, function(column) if (column %in% names(m)) unname(m[[column]][rows]) else rep(NA, length(rows)), simplify = FALSE)
  }
  results_of <- function(contrast) {
    table <- if (is.null(contrast)) results(fit) else results(fit, contrast = contrast)
    meta <- metadata(table)
    c(list(contrast = if (is.null(contrast)) scalar(tail(resultsNames(fit), 1)) else contrast,
           alpha = scalar(meta$alpha), filter_threshold = scalar(unname(meta$filterThreshold)), filter_theta = scalar(unname(meta$filterTheta))),
      lapply(as.list(table)[c("log2FoldChange", "lfcSE", "stat", "pvalue", "padj")], unname))
  }
  out <- list(case = scalar(name), versions = versions, design = scalar(paste(deparse(case$design), collapse = "")),
              genes = rownames(counts), kind = simulated$kind, samples = colnames(counts),
              sample_table = lapply(samples, function(column) if (is.factor(column)) as.character(column) else column),
              levels = lapply(Filter(is.factor, samples), levels),
              counts = counts,
              design_columns = colnames(X), design_matrix = unname(X), coefficient_names = resultsNames(fit),
              size_factors = list(ratio = unname(sizeFactors(dds)), poscounts = unname(poscounts)),
              trend = list(fit_type = scalar(attr(trend, "fitType")), asymptDisp = scalar(unname(attr(trend, "coefficients")[1])),
                           extraPois = scalar(unname(attr(trend, "coefficients")[2])),
                           varLogDispEsts = scalar(attr(trend, "varLogDispEsts")), dispPriorVar = scalar(attr(trend, "dispPriorVar"))),
              cooks_cutoff = scalar(qf(.99, ncol(X), nrow(X) - ncol(X))),
              table = table_of(fit), coefficients = unname(coef(fit)), standard_errors = unname(coef(fit, SE = TRUE)),
              results = lapply(c(list(NULL), case$contrasts), results_of))
  if (refit) {
    rows <- which(mcols(fit)$replace %in% TRUE)
    out$before_refit <- list(note = scalar("maxCooks: every gene; the rest: the replaced genes, by their names, in this order"),
      maxCooks = unname(mcols(before)$maxCooks), genes = rownames(fit)[rows],
      table = table_of(before, rows, setdiff(columns, c("allZero", "maxCooks", "replace"))),
      coefficients = unname(coef(before)[rows, ]), standard_errors = unname(coef(before, SE = TRUE)[rows, ]),
      replaced_counts = unname(assays(fit)$replaceCounts[rows, ]))
  }
  save_json(out, name)
  first <- results(fit)
  m <- mcols(fit)
  cat(sprintf("  genes %d  trend %.4g + %.4g/mean  prior %.4g  outliers %d  not converged %d  replaced %d  p NA %d  padj NA %d  padj<.1 %d  threshold %.3g\n",
      nrow(fit), attr(trend, "coefficients")[1], attr(trend, "coefficients")[2], attr(trend, "dispPriorVar"), sum(m$dispOutlier, na.rm = TRUE),
      sum(!m$betaConv, na.rm = TRUE), sum(m$replace %in% TRUE), sum(is.na(first$pvalue)), sum(is.na(first$padj)),
      sum(first$padj < .1, na.rm = TRUE), metadata(first)$filterThreshold))
  for (k in unique(simulated$kind)) cat(sprintf("    %-10s %3d, p NA in %d\n", k, sum(simulated$kind == k), sum(is.na(first$pvalue[simulated$kind == k]))))
}

# ---- the cases -------------------------------------------------------------------------------------------------

two <- function(n, names = c("A", "B")) factor(rep(names, each = n / 2), levels = names)
odd <- function(zero = 0, separated = 0, outlier = 0, kept = 0, single = 0, constant = 0, huge = 0)
  c(zero = zero, separated = separated, outlier = outlier, kept = kept, single = single, constant = constant, huge = huge)
is_first <- function(samples) samples$condition == levels(samples$condition)[1]

cases <- list(
  two_group = list(seed = 101, genes = 130, low = 40, scatter = .7, intercept = TRUE, groups = is_first, design = ~condition,
    samples = data.frame(condition = two(12)), contrasts = list(c("condition", "A", "B")),
    odd = odd(zero = 8, separated = 6, outlier = 5, kept = 3, single = 2, constant = 4, huge = 3)),
  batch = list(seed = 102, genes = 120, low = 25, scatter = .6, intercept = TRUE, groups = is_first, design = ~batch + condition,
    samples = data.frame(batch = factor(rep(c("x", "y", "z"), each = 8)), condition = factor(rep(rep(c("ctl", "trt"), each = 4), 3))),
    contrasts = list(c("batch", "z", "y")),
    odd = odd(zero = 2, separated = 4, outlier = 6, kept = 2, single = 1)),
  replicates = list(seed = 103, genes = 105, low = 12, scatter = .6, intercept = TRUE, groups = is_first, design = ~condition,
    samples = data.frame(condition = two(20)), contrasts = list(c("condition", "A", "B")),
    odd = odd(zero = 2, separated = 2, outlier = 6, single = 1, constant = 1)),
  interaction = list(seed = 104, genes = 112, low = 12, scatter = .6, intercept = TRUE, groups = function(s) s$strain == "wt", design = ~strain * time,
    samples = data.frame(strain = factor(rep(c("wt", "mut"), each = 12), levels = c("wt", "mut")), time = factor(rep(rep(c("t0", "t1", "t2"), each = 4), 2))),
    contrasts = list(c("time", "t2", "t1"), c(0, 1, 0, 0, 0, 1)),
    odd = odd(zero = 1, separated = 4, outlier = 3)),
  continuous = list(seed = 105, genes = 112, low = 10, scatter = .6, intercept = TRUE, groups = is_first, design = ~age + condition,
    samples = data.frame(age = c(23.5, 31.2, 37.8, 42, 48.4, 55.1, 61.9, 26.3, 29, 35.6, 40.7, 46.2, 52.5, 58.8, 64.1),
                         condition = factor(rep(c("A", "B"), c(7, 8)))),
    contrasts = list(c("condition", "A", "B")), odd = odd(zero = 1, separated = 4, outlier = 2, huge = 1)),
  no_intercept = list(seed = 106, genes = 112, low = 10, scatter = .6, intercept = FALSE, groups = function(s) s$condition == "b", design = ~0 + condition,
    samples = data.frame(condition = factor(rep(c("a", "b", "c"), each = 4))), contrasts = list(c("condition", "b", "c")),
    odd = odd(zero = 2, separated = 4, outlier = 3)),
  small = list(seed = 107, genes = 114, low = 10, scatter = .9, intercept = TRUE, groups = is_first, design = ~condition,
    samples = data.frame(condition = two(6)), contrasts = list(c("condition", "A", "B")),
    odd = odd(zero = 2, separated = 2, outlier = 2)))

# ---- lowess, Benjamini-Hochberg and the trend alone ------------------------------------------------------------

lowess_cases <- function() {
  set.seed(201)
  x <- seq(0, .95, length.out = 50)
  inputs <- list(
    noisy_monotone = list(x = x, y = 400 * x / (x + .3) + rnorm(50, 0, 12)),
    steps = list(x = seq(.12, .95, length.out = 50), y = as.numeric(rep(c(310L, 322L, 322L, 340L, 335L, 290L, 180L), c(9, 8, 5, 9, 7, 6, 6)))),
    plateau = list(x = x, y = as.numeric(c(round(seq(55, 80, length.out = 12)), rep(80, 30), round(seq(78, 20, length.out = 8))))))
  p <- c(runif(20), rbeta(25, .3, 4), 0, 1, .04, .04, .04)
  p <- p[sample(length(p))]
  p[c(3, 17, 18, 44)] <- NA
  save_json(list(versions = versions, f = scalar(1 / 5),
                 lowess = lapply(inputs, function(i) list(x = i$x, y = i$y, fitted = lowess(i$x, i$y, f = 1 / 5)$y)),
                 benjamini_hochberg = list(p = p, adjusted = p.adjust(p, "BH"))), "lowess")
}

trend_cases <- function() {
  set.seed(202)
  one <- function(k, a0, a1, scatter, wild = 0) {
    means <- exp(rnorm(k, log(100), 1.6))
    disps <- (a0 + a1 / means) * exp(rnorm(k, -scatter^2 / 2, scatter))
    if (wild > 0) {
      at <- sample(k, wild)
      disps[at] <- disps[at] * rep(c(40, 1e-6), length.out = wild)
    }
    list(means = means, disps = disps)
  }
  inputs <- list(plain = one(120, .05, 2, .6), wild = one(150, .02, 4, .8, wild = 24), flat = one(100, .2, .3, .5),
                 rising = { r <- one(80, .05, 2, .2); list(means = r$means, disps = .01 + .002 * r$means) })
  save_json(list(versions = versions, trends = lapply(inputs, function(i) {
    fit <- try(DESeq2:::parametricDispersionFit(i$means, i$disps), silent = TRUE)
    failed <- inherits(fit, "try-error")
    coefficients <- if (failed) c(NA_real_, NA_real_) else unname(attr(fit, "coefficients"))
    cat(sprintf("  trend: %s\n", if (failed) trimws(attr(fit, "condition")$message) else paste(signif(coefficients, 5), collapse = " + ")))
    list(means = i$means, disps = i$disps, asymptDisp = scalar(coefficients[1]), extraPois = scalar(coefficients[2]),
         error = if (failed) scalar(attr(fit, "condition")$message))
  })), "trend")
}

# ---- main ------------------------------------------------------------------------------------------------------

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)
for (name in names(cases)) run_case(name, cases[[name]])
lowess_cases()
trend_cases()
