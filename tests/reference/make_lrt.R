# Likelihood-ratio tests of the simulated cases, from R's DESeq2.
#
#   Rscript tests/reference/make_lrt.R [folder]
#
# reads the counts and samples of the cases that make_reference.R wrote into the folder (default: the script's own) and
# writes lrt.json there: for each test the columns that the reduced design keeps (of the case's design_columns), statistic,
# p-value with and without Cook's filter, and whether the reduced fit converged. Numbers carry 17 digits; NA is null.
#
# Run with R 4.2.2, DESeq2 1.38.3 and jsonlite.

suppressMessages(library(DESeq2))

number <- function(x) ifelse(is.na(x), "null", sprintf("%.17g", x))
numbers <- function(x) paste0("[", paste(number(unname(x)), collapse = ","), "]")
quoted <- function(x) paste0("[", paste0("\"", x, "\"", collapse = ","), "]")

tests <- list(two_group = ~1, replicates = ~1, batch = ~condition, interaction = ~strain + time)

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)

run <- function(name, reduced) {
  case <- jsonlite::fromJSON(file.path(folder, paste0(name, ".json")))
  samples <- as.data.frame(case$sample_table, stringsAsFactors = FALSE)
  for (factor_name in names(case$levels)) samples[[factor_name]] <- factor(samples[[factor_name]], levels = case$levels[[factor_name]])
  counts <- case$counts
  storage.mode(counts) <- "integer"
  dimnames(counts) <- list(case$genes, case$samples)
  dds <- DESeqDataSetFromMatrix(counts, samples, as.formula(case$design))
  fit <- DESeq(dds, test = "LRT", reduced = reduced, quiet = TRUE)
  stopifnot(isTRUE(all.equal(unname(sizeFactors(fit)), case$size_factors$ratio, tolerance = 1e-12)))
  table <- results(fit)
  m <- mcols(fit)
  cat(sprintf("%-12s %-16s p NA %d  replaced %d  reduced not converged %d  below 0 %d\n", name, deparse(reduced), sum(is.na(table$pvalue)),
              sum(m$replace %in% TRUE), sum(!m$reducedBetaConv, na.rm = TRUE), sum(table$stat < 0, na.rm = TRUE)))
  paste0("{\"columns\": ", quoted(colnames(model.matrix(reduced, samples))),
         ",\n   \"stat\": ", numbers(table$stat), ",\n   \"pvalue\": ", numbers(table$pvalue),
         ",\n   \"unfiltered\": ", numbers(results(fit, cooksCutoff = FALSE)$pvalue),
         ",\n   \"converged\": ", gsub("\"", "", quoted(ifelse(is.na(m$reducedBetaConv), "null", ifelse(m$reducedBetaConv, "true", "false")))), "}")
}

body <- mapply(run, names(tests), tests)
versions <- sprintf("{\"R\": \"%s.%s\", \"DESeq2\": \"%s\"}", R.version$major, R.version$minor, packageVersion("DESeq2"))
writeLines(paste0("{\"versions\": ", versions, ",\n \"tests\": {\n", paste0("  \"", names(tests), "\": ", body, collapse = ",\n"), "}}"),
           file.path(folder, "lrt.json"))
