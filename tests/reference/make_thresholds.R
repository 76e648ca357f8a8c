# Tests against thresholds of the simulated cases, contrasts by lists of names among them, from R's DESeq2.
#
#   Rscript tests/reference/make_thresholds.R [folder]
#
# reads the counts and samples of the cases that make_reference.R wrote into the folder (default: the script's own) and
# writes thresholds.json there: for each test its case, contrast (as R was asked: factor and levels, or two lists of
# coefficients), threshold, and for each alternative statistic and p-value. DESeq2 1.38's greaterAbs is the one that is
# called greaterAbs2014 since 1.44. Numbers carry 17 digits; NA is null.
#
# Run with R 4.2.2, DESeq2 1.38.3 and jsonlite.

suppressMessages(library(DESeq2))

number <- function(x) ifelse(is.na(x), "null", sprintf("%.17g", x))
numbers <- function(x) paste0("[", paste(number(unname(x)), collapse = ","), "]")
quoted <- function(x) if (length(x)) paste0("[", paste0("\"", x, "\"", collapse = ","), "]") else "[]"

tests <- list(
  list(case = "interaction", contrast = list(c("strainmut.timet2", "time_t2_vs_t0"), "strainmut.timet1"), threshold = .7),
  list(case = "no_intercept", contrast = list("conditionc", "conditiona"), threshold = .7),
  list(case = "batch", contrast = c("batch", "y", "x"), threshold = 1),
  list(case = "batch", contrast = list(character(), c("batch_y_vs_x", "batch_z_vs_x")), threshold = .5),
  list(case = "replicates", contrast = c("condition", "A", "B"), threshold = .5))

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)

run <- function(test) {
  case <- jsonlite::fromJSON(file.path(folder, paste0(test$case, ".json")))
  samples <- as.data.frame(case$sample_table, stringsAsFactors = FALSE)
  for (factor_name in names(case$levels)) samples[[factor_name]] <- factor(samples[[factor_name]], levels = case$levels[[factor_name]])
  counts <- case$counts
  storage.mode(counts) <- "integer"
  dimnames(counts) <- list(case$genes, case$samples)
  fit <- DESeq(DESeqDataSetFromMatrix(counts, samples, as.formula(case$design)), quiet = TRUE)
  one <- function(alternative) {
    r <- results(fit, contrast = test$contrast, lfcThreshold = test$threshold, altHypothesis = alternative)
    cat(sprintf("%-12s %-10s p NA %d  fold change 0 %d  called %d\n", test$case, alternative, sum(is.na(r$pvalue)),
                sum(r$log2FoldChange == 0, na.rm = TRUE), sum(r$padj < .1, na.rm = TRUE)))
    paste0("\"", if (alternative == "greaterAbs") "greaterAbs2014" else alternative, "\": {\"stat\": ", numbers(r$stat),
           ",\n     \"pvalue\": ", numbers(r$pvalue), "}")
  }
  parts <- sapply(c("greaterAbs", "lessAbs", "greater", "less"), one)
  contrast <- if (is.list(test$contrast)) paste0("[", quoted(test$contrast[[1]]), ",", quoted(test$contrast[[2]]), "]") else quoted(test$contrast)
  paste0("  {\"case\": \"", test$case, "\", \"contrast\": ", contrast, ", \"threshold\": ", number(test$threshold),
         ",\n   \"alternatives\": {", paste(parts, collapse = ",\n    "), "}}")
}

body <- sapply(tests, run)
versions <- sprintf("{\"R\": \"%s.%s\", \"DESeq2\": \"%s\"}", R.version$major, R.version$minor, packageVersion("DESeq2"))
writeLines(paste0("{\"versions\": ", versions, ",\n \"tests\": [\n", paste(body, collapse = ",\n"), "]}"), file.path(folder, "thresholds.json"))
