# The prior variance of R's DESeq2 where n - p <= 3, under twenty seeds.
#
#   Rscript tests/reference/make_prior_seeds.R [folder]
#
# There estimateDispersionsPriorVar matches histograms with random draws, under set.seed(2). The script replaces
# that seed by others in the function's own text, and writes prior_seeds.json into the folder (default: its own):
# for each simulated data set the residuals log(dispGeneEst / dispFit) that the function uses, and its answers.
#
# Run with R 4.2.2 and DESeq2 1.38.3.

suppressMessages(library(DESeq2))

prior <- DESeq2:::estimateDispersionsPriorVar
text <- deparse(body(prior))
stopifnot(sum(grepl("set.seed(2)", text, fixed = TRUE)) == 1)
seeded <- function(object, seed) {
  f <- function(object, minDisp = 1e-8, modelMatrix = NULL, seed) NULL
  body(f) <- parse(text = sub("set.seed(2)", "set.seed(seed)", text, fixed = TRUE))[[1]]
  environment(f) <- asNamespace("DESeq2")
  f(object, seed = seed)
}

run <- function(case) {
  set.seed(case$seed)
  samples <- data.frame(condition = factor(rep(c("A", "B"), case$samples)))
  n <- nrow(samples)
  base <- exp(rnorm(case$genes, log(200), 1.2))
  alpha <- (.05 + 2 / base) * exp(rnorm(case$genes, 0, case$scatter))
  counts <- matrix(rnbinom(case$genes * n, mu = base, size = 1 / alpha), case$genes)
  storage.mode(counts) <- "integer"
  dds <- estimateSizeFactors(DESeqDataSetFromMatrix(counts[rowSums(counts) > 0, ], samples, ~condition))
  dds <- estimateDispersionsFit(estimateDispersionsGeneEst(dds, quiet = TRUE), quiet = TRUE)
  stopifnot(identical(prior(dds), seeded(dds, 2)))
  used <- which(mcols(dds)$dispGeneEst >= 100 * 1e-8)
  list(df = n - 2, residual = log(mcols(dds)$dispGeneEst[used] / mcols(dds)$dispFit[used]),
       prior_variance = sapply(1:20, function(seed) seeded(dds, seed)))
}

cases <- list(two_against_one = list(seed = 301, samples = c(2, 1), genes = 700, scatter = 1.6),
              two_against_two = list(seed = 302, samples = c(2, 2), genes = 700, scatter = 1.1),
              three_against_two = list(seed = 303, samples = c(3, 2), genes = 700, scatter = .9))

numbers <- function(x, digits) paste0("[", paste(sprintf(paste0("%.", digits, "g"), x), collapse = ","), "]")
body_of <- function(name) {
  r <- run(cases[[name]])
  cat(sprintf("%-18s df %d used %d  min %.4f max %.4f\n", name, r$df, length(r$residual), min(r$prior_variance), max(r$prior_variance)))
  sprintf(" \"%s\": {\n  \"df\": %d,\n  \"residual\": %s,\n  \"prior_variance\": %s\n }", name, r$df,
          numbers(r$residual, 10), numbers(r$prior_variance, 17))
}
arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)
versions <- sprintf(" \"versions\": {\"R\": \"%s.%s\", \"DESeq2\": \"%s\"}", R.version$major, R.version$minor, packageVersion("DESeq2"))
writeLines(paste0("{\n", paste(c(versions, sapply(names(cases), body_of)), collapse = ",\n"), "\n}"), file.path(folder, "prior_seeds.json"))
