# Quasi-likelihood F tests from R's edgeR, and variances squeezed towards a curve from R's limma.
#
#   Rscript tests/reference/make_quasi.R [folder]
#
# reads counts of the replicates case that make_reference.R wrote into the folder (default: the script's own) and writes
# quasi.json there: for each test the design, how many of its columns the reduced one keeps, the dispersions given (a
# curve of the mean), edgeR's AveLogCPM and what glmQLFit and glmQLFTest find with DESeq2's size factors as library sizes;
# and for squeezeVar its variances, degrees of freedom, covariate and result. Numbers carry 17 digits.
#
# Run with R 4.2.2, edgeR 3.40.2, limma 3.54.1 and jsonlite.

suppressMessages(library(edgeR))

number <- function(x) ifelse(is.na(x), "null", ifelse(is.infinite(x), "\"inf\"", sprintf("%.17g", x)))
numbers <- function(x) paste0("[", paste(number(unname(x)), collapse = ","), "]")

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)

case <- jsonlite::fromJSON(file.path(folder, "replicates.json"))
group <- matrix(unlist(case$design_matrix), nrow(case$design_matrix))
tests <- list(group = list(design = group, tested = 2L),
              both = list(design = cbind(group, round(sin(seq_len(nrow(group))), 3)), tested = 2:3))

run <- function(name, given) {
  counts <- case$counts
  sizes <- case$size_factors$ratio
  some <- rowSums(counts) > 0
  design <- given$design
  tested <- given$tested
  mean <- rowMeans(sweep(counts, 2, sizes, "/"))[some]
  dispersion <- .03 + 1 / mean
  counts <- counts[some, ]
  # Counts per million of libraries of a million have the scale of counts.
  average <- aveLogCPM(counts, lib.size = 1e6 * sizes, dispersion = .1)
  fit <- glmQLFit(counts, design, dispersion = dispersion, offset = log(sizes), AveLogCPM = average)
  test <- glmQLFTest(fit, coef = tested)
  free <- glmQLFTest(fit, coef = tested, poisson.bound = FALSE)
  cat(sprintf("%-12s genes %d  df.prior %.4g  df %s  bound raised %d of %d\n", name, nrow(counts), fit$df.prior,
              paste(sort(unique(fit$df.residual.zeros)), collapse = " "), sum(test$table$PValue != free$table$PValue),
              sum(edgeR:::.isBelowPoissonBound(fit))))
  paste0("{\"genes\": [", paste(which(some) - 1L, collapse = ","), "], \"design\": [", paste(apply(design, 1, numbers), collapse = ","),
         "], \"kept\": ", ncol(design) - length(tested),
         ",\n   \"dispersion\": ", numbers(dispersion), ",\n   \"average\": ", numbers(average),
         ",\n   \"deviance\": ", numbers(fit$deviance), ",\n   \"freedom\": ", numbers(fit$df.residual.zeros),
         ",\n   \"df_prior\": ", number(fit$df.prior), ", \"var_prior\": ", numbers(fit$var.prior),
         ",\n   \"var_post\": ", numbers(fit$var.post), ",\n   \"f\": ", numbers(test$table$F),
         ",\n   \"p_value\": ", numbers(test$table$PValue), ",\n   \"unbounded\": ", numbers(free$table$PValue), "}")
}

squeezed <- function(variance, freedom, covariate) {
  found <- suppressWarnings(squeezeVar(variance, freedom, covariate))
  paste0("{\"variance\": ", numbers(variance), ",\n   \"freedom\": ", numbers(freedom), ",\n   \"covariate\": ",
         numbers(covariate), ",\n   \"df_prior\": ", number(found$df.prior), ",\n   \"var_prior\": ",
         numbers(found$var.prior), ",\n   \"var_post\": ", numbers(found$var.post), "}")
}

set.seed(402)
curve <- function(x) exp(sin(x / 2) - x / 10)
draw <- function(genes, prior, freedom) {
  x <- round(runif(genes, 0, 12), 3)
  scale <- if (is.finite(prior)) prior / rchisq(genes, prior) else 1
  squeezed(curve(x) * scale * rchisq(genes, freedom) / freedom, rep_len(freedom, genes), x)
}
cases <- list(
  many = draw(60, 5, c(4, 6, 3)),
  alike = draw(40, Inf, c(8, 5)),
  twenty = draw(20, 3, 6),
  five = draw(5, 2, 4),
  two = draw(2, 2, 4),
  missing = { x <- round(runif(50, 0, 12), 3); d <- rep(c(4, 0, 5, 6, 3), 10); d[which.max(x)] <- 0
    squeezed(ifelse(d > 0, curve(x) * 4 / rchisq(50, 4) * rchisq(50, 4) / 4, 0), d, x) },
  zeros = { x <- round(runif(40, 0, 12), 3); squeezed(c(0, 0, 1e-9, rchisq(37, 4) / 4), rep(4, 40), x) },
  ties = { x <- rep(c(1, 2, 5), c(20, 15, 5)); squeezed(curve(x) * 4 / rchisq(40, 4) * rchisq(40, 4) / 4, rep(4, 40), x) })

body <- mapply(run, names(tests), tests)
versions <- sprintf("{\"R\": \"%s.%s\", \"edgeR\": \"%s\", \"limma\": \"%s\"}", R.version$major, R.version$minor,
                    packageVersion("edgeR"), packageVersion("limma"))
writeLines(paste0("{\"versions\": ", versions, ",\n \"tests\": {\n", paste0("  \"", names(tests), "\": ", body, collapse = ",\n"),
                  "},\n \"squeezed\": {\n", paste0("  \"", names(cases), "\": ", cases, collapse = ",\n"), "}}"),
           file.path(folder, "quasi.json"))
