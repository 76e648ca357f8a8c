# What users bring beside counts and design, from R's DESeq2 on the simulated cases: size factors by iteration, of control genes and
# given ones, normalisation factors of genes x samples, observation weights.
#
#   Rscript tests/reference/make_inputs.R [folder]
#
# reads the counts and samples of the cases that make_reference.R wrote into the folder (default: the script's own) and writes
# inputs.json there. Numbers carry 17 digits; NA is null.
#
# Run with R 4.2.2, DESeq2 1.38.3 and jsonlite.

suppressMessages(library(DESeq2))

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)

data_set <- function(name) {
  case <- jsonlite::fromJSON(file.path(folder, paste0(name, ".json")))
  samples <- as.data.frame(case$sample_table, stringsAsFactors = FALSE)
  for (factor_name in names(case$levels)) samples[[factor_name]] <- factor(samples[[factor_name]], levels = case$levels[[factor_name]])
  counts <- case$counts
  storage.mode(counts) <- "integer"
  dimnames(counts) <- list(case$genes, case$samples)
  DESeqDataSetFromMatrix(counts, samples, as.formula(case$design))
}

# What of a fit the tests look at, one column a quantity; coefficients and standard errors are log2.
fitted_table <- function(dds) {
  m <- mcols(dds)
  m$weightsFail <- if (is.null(m$weightsFail)) FALSE else m$weightsFail
  m$replace <- if (is.null(m$replace)) FALSE else m$replace %in% TRUE
  m$maxCooks <- apply(assays(dds)[["cooks"]], 1, max)  # before the refit; of cells of three samples or more all
  wanted <- c("baseMean", "baseVar", "dispGeneEst", "dispFit", "dispMAP", "dispersion", "maxCooks", "betaIter", "weightsFail", "replace")
  r <- results(dds)
  list(table = lapply(as.list(m[wanted]), as.numeric),
       coefficients = unname(as.matrix(coef(dds))), standard_errors = unname(as.matrix(coef(dds, SE = TRUE))),
       results = lapply(as.list(r[c("log2FoldChange", "lfcSE", "stat", "pvalue", "padj")]), as.numeric))
}

# ---- size factors ----------------------------------------------------------------------------------------------

with_controls <- function(name) {
  dds <- data_set(name)
  controls <- seq(20, nrow(dds), 4)
  factors <- lapply(c(ratio = "ratio", poscounts = "poscounts"), function(type)
    unname(sizeFactors(estimateSizeFactors(dds, type = type, controlGenes = controls))))
  c(list(controls = controls - 1L), factors)
}

# Round by round what estimateSizeFactorsIterate finds, with its optimiser (on differences of 1e-3, to 2e-9 of the objective) and, from
# the same start and dispersions, with one on derivatives until nothing moves: the maximum.
iterated <- function(name) {
  dds <- data_set(name)
  answer <- unname(DESeq2:::estimateSizeFactorsIterate(dds))
  design(dds) <- ~1
  nonzero <- rowSums(counts(dds)) > 0
  y <- counts(dds)[nonzero, ]
  sf <- rep(1, ncol(dds))
  rounds <- list()
  for (i in 1:10) {
    sizeFactors(dds) <- sf
    dds <- estimateDispersions(dds, fitType = "mean", quiet = TRUE)
    q <- t(t(assays(dds)[["mu"]]) / sf)[nonzero, ]
    alpha <- dispersions(dds)[nonzero]
    likelihoods <- function(p) {
      mu <- t(t(q) * exp(p - mean(p)))
      rowSums(matrix(dnbinom(y, mu = mu, size = 1 / alpha, log = TRUE), ncol = ncol(y)))
    }
    fn <- function(p) { l <- likelihoods(p); sum(l[l > quantile(l, .05)]) }
    gr <- function(p) {
      l <- likelihoods(p)
      mu <- t(t(q) * exp(p - mean(p)))
      d <- colSums(((y - mu) / (1 + alpha * mu))[l > quantile(l, .05), ])
      d - mean(d)
    }
    theirs <- optim(log(sf), fn, control = list(fnscale = -1), method = "L-BFGS-B")
    best <- list(par = log(sf))
    for (again in 1:5) best <- optim(best$par, fn, gr, control = list(fnscale = -1, reltol = 1e-16, maxit = 1000), method = "BFGS")
    new <- exp(theirs$par - mean(theirs$par))
    rounds[[i]] <- list(from = sf, dispersions = dispersions(dds), found = new, maximum = exp(best$par - mean(best$par)))
    cat(sprintf("  %s round %d: change %.2e, optimiser off by %.1e, gradient at maximum %.1e\n", name, i, sum((log(new) - log(sf))^2),
                max(abs(log(new) - (best$par - mean(best$par)))), max(abs(gr(best$par)))))
    change <- sum((log(new) - log(sf))^2)
    sf <- new
    if (i > 1 && change < 1e-4) break
  }
  stopifnot(isTRUE(all.equal(sf, answer, tolerance = 1e-12)))
  list(size_factors = answer, rounds = rounds)
}

given <- function(name) {
  dds <- data_set(name)
  sf <- round(seq(.6, 1.7, length.out = ncol(dds)), 2)
  sizeFactors(dds) <- sf
  c(list(size_factors = sf), fitted_table(DESeq(dds, quiet = TRUE)))
}

# ---- normalisation factors of genes x samples ------------------------------------------------------------------

lengths_of <- function(dds) {
  set.seed(11)
  gene <- exp(rnorm(nrow(dds), log(1500), .6))
  condition <- as.numeric(dds$condition == levels(dds$condition)[2])
  shift <- outer(rnorm(nrow(dds), 0, .25), condition)
  round(gene * exp(shift + rnorm(length(shift), 0, .15)), 1)
}

normalised <- function(name) {
  dds <- data_set(name)
  lengths <- lengths_of(dds)
  assays(dds, withDimnames = FALSE)[["avgTxLength"]] <- lengths
  factors <- function(...) unname(normalizationFactors(estimateSizeFactors(dds, quiet = TRUE, ...)))
  fit <- suppressMessages(DESeq(dds, quiet = TRUE))
  stopifnot(identical(factors(), unname(normalizationFactors(fit))))
  few <- c(1, 30, nrow(dds))
  c(list(lengths = lengths, genes = few - 1L, factors = factors()[few, ], poscounts = factors(type = "poscounts")[few, ],
         controls = factors(controlGenes = seq(20, nrow(dds), 4))[few, ]), fitted_table(fit))
}

# ---- observation weights ---------------------------------------------------------------------------------------

weights_of <- function(dds) {
  set.seed(12)
  w <- matrix(1, nrow(dds), ncol(dds))
  partly <- matrix(runif(length(w)) < .25, nrow(w))
  w[partly] <- round(runif(sum(partly), .02, 1), 2)
  w[matrix(runif(length(w)) < .1, nrow(w))] <- 0
  w[matrix(runif(length(w)) < .02, nrow(w))] <- .005
  w[apply(w, 1, max) < 1, 1] <- 1
  second <- dds$condition == levels(dds$condition)[2]
  w[41, second] <- 0                               # nothing of one group: no full rank
  w[42, second] <- .005                            # a little of it: its column is left out of the Cox-Reid term
  w[43, second] <- c(1, rep(0, sum(second) - 1))   # one sample of it
  w[44, second & counts(dds)[44, ] > 0] <- 0       # no count of it, where any is 0
  w[45, ] <- 1
  w
}

weighted <- function(name, reduced) {
  dds <- data_set(name)
  w <- weights_of(dds)
  assays(dds, withDimnames = FALSE)[["weights"]] <- w
  fit <- suppressWarnings(DESeq(dds, quiet = TRUE))
  lrt <- suppressWarnings(DESeq(dds, test = "LRT", reduced = reduced, quiet = TRUE))
  cat(sprintf("  %s: weights fail for %s; replaced %d\n", name, paste(rownames(dds)[mcols(fit)$weightsFail], collapse = " "),
              sum(mcols(fit)$replace %in% TRUE)))
  c(list(weights = w, lrt = list(stat = results(lrt)$stat, pvalue = results(lrt)$pvalue)), fitted_table(fit))
}

# ---- main ------------------------------------------------------------------------------------------------------

out <- list(versions = list(R = paste(R.version$major, R.version$minor, sep = "."), DESeq2 = as.character(packageVersion("DESeq2"))),
            controls = list(case = "two_group", of = with_controls("two_group")),
            iterate = sapply(c("two_group", "interaction"), iterated, simplify = FALSE),
            given = list(case = "small", of = given("small")),
            offsets = list(case = "replicates", of = normalised("replicates")),
            weights = list(case = "replicates", of = weighted("replicates", ~1)))
path <- file.path(folder, "inputs.json")
writeLines(jsonlite::toJSON(out, digits = I(17), na = "null", auto_unbox = TRUE, matrix = "rowmajor"), path)
cat(sprintf("%s %d bytes\n", path, file.size(path)))
