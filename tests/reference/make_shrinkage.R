# Shrunken fold changes of the simulated cases by normal priors, and the pieces of shrinkage, from R's DESeq2.
#
#   Rscript tests/reference/make_shrinkage.R [folder]
#
# reads the counts and samples of the cases that make_reference.R wrote into the folder (default: the script's own) and
# writes shrinkage.json there: for each case prior variances, fold changes and standard errors (log2) of its last
# coefficient (no gene of theirs has replaced counts, which R would shrink as they were); weighted quantiles; s-values.
# Numbers carry 17 digits; NA is null.
#
# Run with R 4.2.2, DESeq2 1.38.3 and jsonlite.

suppressMessages(library(DESeq2))

number <- function(x) ifelse(is.na(x), "null", sprintf("%.17g", x))
numbers <- function(x) paste0("[", paste(number(unname(x)), collapse = ","), "]")

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)

run <- function(name) {
  case <- jsonlite::fromJSON(file.path(folder, paste0(name, ".json")))
  samples <- as.data.frame(case$sample_table, stringsAsFactors = FALSE)
  for (factor_name in names(case$levels)) samples[[factor_name]] <- factor(samples[[factor_name]], levels = case$levels[[factor_name]])
  counts <- case$counts
  storage.mode(counts) <- "integer"
  dimnames(counts) <- list(case$genes, case$samples)
  fit <- DESeq(DESeqDataSetFromMatrix(counts, samples, as.formula(case$design)), quiet = TRUE)
  coefficient <- tail(resultsNames(fit), 1)
  shrunken <- lfcShrink(fit, coef = coefficient, type = "normal", quiet = TRUE)
  variance <- priorInfo(shrunken)$betaPriorVar
  stopifnot(!any(mcols(fit)$replace %in% TRUE))
  cat(sprintf("%-12s %-28s NA %d  prior %s\n", name, coefficient, sum(is.na(shrunken$log2FoldChange)),
              paste(signif(variance, 4), collapse = " ")))
  paste0("{\"prior_variance\": ", numbers(variance), ",\n   \"log2FoldChange\": ", numbers(shrunken$log2FoldChange),
         ",\n   \"lfcSE\": ", numbers(shrunken$lfcSE), "}")
}

names <- c("two_group", "batch")
cases <- sapply(names, run)

set.seed(1)
quantile <- function(k, share) {
  x <- round(abs(rnorm(k)), 2)
  weight <- rexp(k)
  value <- DESeq2:::Hmisc.wtd.quantile(x, weights = weight, share, normwt = TRUE)
  paste0("{\"x\": ", numbers(x), ", \"weight\": ", numbers(weight), ", \"share\": ", number(share), ", \"value\": ", number(value), "}")
}
quantiles <- mapply(quantile, c(2, 7, 40, 40, 301), c(.95, .95, .95, .5, .95))
lfsr <- c(.3, NA, .01, .5, .01, .2, 0, NA, .5)

versions <- sprintf("{\"R\": \"%s.%s\", \"DESeq2\": \"%s\"}", R.version$major, R.version$minor, packageVersion("DESeq2"))
writeLines(paste0("{\"versions\": ", versions, ",\n \"normal\": {\n", paste0("  \"", names, "\": ", cases, collapse = ",\n"), "},\n",
                  " \"quantiles\": [\n  ", paste(quantiles, collapse = ",\n  "), "],\n",
                  " \"lfsr\": ", numbers(lfsr), ",\n \"s_value\": ", numbers(DESeq2:::apeglm_svalue(lfsr)), "}"),
           file.path(folder, "shrinkage.json"))
