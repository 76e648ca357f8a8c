# Reference numbers for local regression of one variable, from R's locfit with its defaults
# (as DESeq2's localDispersionFit calls it), at and beyond the data.
#
#   Rscript tests/reference/make_locfit.R [folder]
#
# writes locfit.json into the folder (default: the script's own). Numbers carry 17 digits.
# Curves: like dispersions (noise about a falling line, weights spread over nine orders), gaps that
# make the evaluation tree split on one side only, ties, few points, equal weights.
#
# Run with R 4.2.2, locfit 1.5-9.7 (the file names the versions that made it).

suppressMessages(library(locfit))
numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ","), "]")

curve_of <- function(x, y, w) {
  at <- sort(c(min(x) - c(3, .5), seq(min(x), max(x), length.out = 37), sort(x)[c(2, 5)], max(x) + c(.25, 4)))
  fit <- locfit(y ~ x, data = data.frame(x = x, y = y), weights = w)
  paste0("{\"x\": ", numbers(x), ",\n   \"y\": ", numbers(y), ",\n   \"weight\": ", numbers(w),
         ",\n   \"at\": ", numbers(at), ",\n   \"fitted\": ", numbers(predict(fit, data.frame(x = at))),
         ",\n   \"vertices\": ", numbers(sort(fit$eva$xev)), "}")
}

set.seed(401)
log_mean <- sort(rnorm(150, 4, 2.5))
log_alpha <- log(.05 + 3 / exp(log_mean)) + rnorm(150, 0, .7)
gaps <- c(runif(40, 0, .3), runif(25, 2.7, 3), runif(12, 9, 9.5))
ties <- sample(rep(log(c(.25, .5, 1, 2, 3, 5, 9)), 8))
curves <- c(
  dispersions = curve_of(log_mean, log_alpha, exp(log_mean)),
  unsorted = curve_of(rev(log_mean)[c(2:60, 1)], log_alpha[1:60], exp(rev(log_mean)[c(2:60, 1)])),
  gaps = curve_of(gaps, sin(gaps) + rnorm(77, 0, .1), rep(1, 77)),
  ties = curve_of(ties, ties^2 + rnorm(56, 0, .2), exp(ties)),
  few = curve_of(c(1, 2, 4, 5, 7, 8, 11, 12, 13, 17), c(2, 1, 4, 3, 8, 6, 9, 12, 10, 15), 1:10),
  fewest = curve_of(c(.5, 1, 3, 4, 4.5, 9), c(1, -1, 2, 0, 3, 1), rep(2, 6)))

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)
version <- paste(R.version$major, R.version$minor, sep = ".")
writeLines(paste0("{\"versions\": {\"R\": \"", version, "\", \"locfit\": \"", packageVersion("locfit"), "\"},\n \"curves\": {\n",
                  paste0("  \"", names(curves), "\": ", curves, collapse = ",\n"), "}}"),
           file.path(folder, "locfit.json"))
