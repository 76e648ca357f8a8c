# Moderated F tests from R's limma, of simulated expression values.
#
#   Rscript tests/reference/make_limma_f.R [folder]
#
# writes limma_f.json into the folder (default: the script's own): values (genes x samples; null is missing), the design, and
# for each test which of its columns (from 1) are tested. limma's own F takes the correlations of the complete design's
# coefficients for every gene; for genes with missing values F is therefore of the gene's own fit here (lmFit of its
# samples alone), with limma's posterior variance. F of one coefficient is the square of limma's t, p from the sum of both
# degrees of freedom. Results carry 17 digits; values are rounded to three decimals.
#
# Run with R 4.2.2 and limma 3.54.1.

library(limma)

number <- function(x) ifelse(is.na(x), "null", ifelse(is.infinite(x), "\"inf\"", sprintf("%.17g", x)))
numbers <- function(x) paste0("[", paste(number(unname(x)), collapse = ","), "]")
short <- function(x) paste0("[", paste(ifelse(is.na(x), "null", sprintf("%.15g", x)), collapse = ","), "]")
matrix_of <- function(x) paste0("[", paste(apply(x, 1, short), collapse = ",\n    "), "]")

own_fit <- function(y, design, coef, freedom, s2) {
  here <- is.finite(y)
  fit <- lmFit(matrix(y[here], 1), design[here, ])
  b <- fit$coefficients[1, coef]
  v <- fit$cov.coefficients[coef, coef]
  drop(b %*% solve(v, b)) / length(coef) / s2
}

run <- function(y, design, coefs) {
  fit <- eBayes(lmFit(y, design))
  complete <- rowSums(is.na(y)) == 0
  test <- function(coef) {
    plain <- sapply(seq_len(nrow(y)), function(g) own_fit(y[g, ], design, coef, fit$df.residual[g], fit$sigma[g]^2))
    moderated <- sapply(seq_len(nrow(y)), function(g) own_fit(y[g, ], design, coef, fit$df.residual[g], fit$s2.post[g]))
    if (length(coef) > 1) {
      table <- topTable(fit, coef = coef, number = Inf, sort.by = "none")
      stopifnot(isTRUE(all.equal(moderated[complete], table$F[complete], tolerance = 1e-10)))
      moderated[complete] <- table$F[complete]
    } else {
      stopifnot(isTRUE(all.equal(moderated, unname(fit$t[, coef]^2), tolerance = 1e-10)))
      moderated <- fit$t[, coef]^2
    }
    total <- fit$df.prior + fit$df.residual
    p <- pf(moderated, length(coef), total, lower.tail = FALSE)
    if (length(coef) > 1) stopifnot(isTRUE(all.equal(p[complete], table$P.Value[complete], tolerance = 1e-10)))
    paste0("{\"tested\": ", numbers(coef), ", \"f\": ", numbers(plain), ",\n    \"p_value\": ",
           numbers(pf(plain, length(coef), fit$df.residual, lower.tail = FALSE)), ",\n    \"moderated_f\": ", numbers(moderated),
           ",\n    \"moderated_p_value\": ", numbers(p), "}")
  }
  cat(sprintf("df.prior %.4g  s2.prior %.4g  df.residual %s\n", fit$df.prior, fit$s2.prior, paste(range(fit$df.residual), collapse = "-")))
  paste0("{\"y\": ", matrix_of(y), ",\n   \"design\": ", matrix_of(design), ",\n   \"df_prior\": ", number(fit$df.prior),
         ", \"s2_prior\": ", number(fit$s2.prior), ",\n   \"df_residual\": ", numbers(fit$df.residual), ",\n   \"variance\": ",
         numbers(fit$sigma^2), ",\n   \"s2_post\": ", numbers(fit$s2.post), ",\n   \"tests\": [", paste(lapply(coefs, test), collapse = ",\n   "), "]}")
}

samples <- data.frame(group = factor(rep(c("a", "b", "c"), c(5, 5, 4))), age = c(3, 8, 1, 6, 9, 2, 7, 5, 4, 1, 8, 3, 6, 9))
design <- model.matrix(~age + group, samples)
simulate <- function(genes, prior_df, effects, missing) {
  sigma <- if (is.finite(prior_df)) sqrt(.04 * prior_df / rchisq(genes, prior_df)) else rep(.2, genes)
  beta <- cbind(rnorm(genes, 8, 2), rnorm(genes, 0, .02), matrix(rnorm(2 * genes) * effects, genes))
  y <- round(beta %*% t(design) + sigma * matrix(rnorm(14 * genes), genes), 3)
  y[sample(length(y), missing)] <- NA
  y
}
set.seed(401)
cases <- list(
  scattered = run(simulate(60, 4, rep(c(0, .4), 30), 45), design, list(3:4, 2L, 2:4)),
  alike = run(simulate(24, Inf, rep(c(0, .3), 12), 6), design, list(3:4)),
  zeros = run({ y <- simulate(20, 3, .2, 0); y[5, ] <- 2 + drop(design %*% c(0, 0, 1, 0)); y }, design, list(3:4)))

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)
versions <- sprintf("{\"R\": \"%s.%s\", \"limma\": \"%s\"}", R.version$major, R.version$minor, packageVersion("limma"))
writeLines(paste0("{\"versions\": ", versions, ",\n \"cases\": {\n", paste0("  \"", names(cases), "\": ", cases, collapse = ",\n"), "}}"),
           file.path(folder, "limma_f.json"))
