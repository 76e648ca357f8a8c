# Reference numbers for normalised counts, variance-stabilised and regularised-log values, trends
# of every kind and a user's own, on the counts of small.json and two_group.json.
#
#   Rscript tests/reference/make_transforms.R [folder]
#
# reads the cases' counts and sample tables, and writes transforms.json into the folder (default:
# the script's own). Numbers carry 15 digits (jsonlite's most), NA is null. New samples (the last third, their counts
# tripled) are transformed as DESeq2's documentation has it: with the dispersion function, the rlog
# intercepts and the prior variance of the others, and size factors from the others' geometric
# means. DESeq2 scales such size factors to a geometric mean of 1, which makes a sample depend on
# the others beside it; they are taken without that here.
#
# Run with R 4.2.2, DESeq2 1.38.3, locfit 1.5-9.7, jsonlite 1.8.4 (the file names its versions).

suppressMessages({ library(DESeq2); library(jsonlite) })
arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
home <- dirname(script)
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else home
rows <- function(m) unname(apply(m, 1, identity, simplify = FALSE))
# A trend that no formula of DESeq2's makes.
own <- function(means) .02 + .5 / sqrt(means)

of_case <- function(name) {
  case <- fromJSON(file.path(home, paste0(name, ".json")))
  genes <- seq_len(min(50, nrow(case$counts)))
  counts <- case$counts[genes, ]
  dimnames(counts) <- list(case$genes[genes], case$samples)
  data <- as.data.frame(case$sample_table, row.names = case$samples)
  for (f in names(case$levels)) data[[f]] <- factor(data[[f]], levels = case$levels[[f]])
  all <- DESeqDataSetFromMatrix(counts, data, as.formula(case$design))
  all <- estimateSizeFactors(all)
  blind <- all
  design(blind) <- ~ 1
  found <- list(size_factors = unname(sizeFactors(all)), trends = list())
  for (kind in c("parametric", "local", "mean")) {
    d <- suppressMessages(estimateDispersionsFit(estimateDispersionsGeneEst(blind, quiet = TRUE), fitType = kind, quiet = TRUE))
    found$trends[[kind]] <- list(
      mean = mcols(d)$baseMean, gene_wise = mcols(d)$dispGeneEst, trend = mcols(d)$dispFit,
      fitted_kind = attr(dispersionFunction(d), "fitType"), residual_variance = attr(dispersionFunction(d), "varLogDispEsts"),
      vst = rows(suppressMessages(assay(varianceStabilizingTransformation(all, blind = TRUE, fitType = kind)))))
  }
  found$vst_design <- rows(suppressMessages(assay(varianceStabilizingTransformation(all, blind = FALSE))))
  r <- suppressMessages(rlog(all, blind = TRUE))
  found$rlog <- rows(assay(r))
  found$rlog_prior_variance <- attr(r, "betaPriorVar")
  found$rlog_design <- rows(assay(suppressMessages(rlog(all, blind = FALSE))))
  # A user's own trend.
  d <- estimateDispersionsGeneEst(all, quiet = TRUE)
  dispersionFunction(d) <- own
  prior <- estimateDispersionsPriorVar(d)
  d <- estimateDispersionsMAP(d, dispPriorVar = prior, quiet = TRUE)
  d <- nbinomWaldTest(d, quiet = TRUE)
  found$own <- list(prior_variance = prior, dispersion = dispersions(d), log2FoldChange = results(d)$log2FoldChange,
                    pvalue = results(d)$pvalue)
  # Whole runs along the other trends.
  for (kind in c("local", "mean")) {
    d <- suppressMessages(DESeq(all, fitType = kind, quiet = TRUE))
    found$runs[[kind]] <- list(dispersion = dispersions(d), pvalue = results(d)$pvalue, padj = results(d)$padj,
                               prior_variance = attr(dispersionFunction(d), "dispPriorVar"))
  }
  # New samples.
  n <- ncol(all)
  old <- seq_len(n - n %/% 3)
  train <- estimateSizeFactors(DESeqDataSetFromMatrix(counts[, old], data[old, , drop = FALSE], ~ 1))
  new <- DESeqDataSetFromMatrix(3L * counts[, -old], data[-old, , drop = FALSE], ~ 1)
  log_mean <- rowMeans(log(counts[, old]))
  sizeFactors(new) <- apply(counts(new), 2, function(k) exp(median((log(k) - log_mean)[is.finite(log_mean) & k > 0])))
  train <- suppressMessages(estimateDispersionsFit(estimateDispersionsGeneEst(train, quiet = TRUE), quiet = TRUE))
  rt <- suppressMessages(rlog(train, blind = FALSE))
  suppressWarnings({ dispersionFunction(new) <- dispersionFunction(train) })
  vn <- varianceStabilizingTransformation(new, blind = FALSE)
  mcols(new)$dispFit <- mcols(train)$dispFit
  rn <- rlog(new, blind = FALSE, intercept = mcols(rt)$rlogIntercept, betaPriorVar = attr(rt, "betaPriorVar"))
  found$new <- list(size_factors = unname(sizeFactors(new)), trend = attr(dispersionFunction(train), "fitType"),
                    vst = rows(assay(vn)), rlog = rows(assay(rn)))
  found
}

versions <- list(R = paste(R.version$major, R.version$minor, sep = "."), DESeq2 = as.character(packageVersion("DESeq2")),
                 locfit = as.character(packageVersion("locfit")))
writeLines(toJSON(list(versions = versions, small = of_case("small"), two_group = of_case("two_group")),
                  digits = I(17), auto_unbox = TRUE, na = "null"), file.path(folder, "transforms.json"))
