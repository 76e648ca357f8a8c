# One analysis: Rscript run.R ADAPTER FOLDER OUT FITS
#
# ADAPTER defines fit(counts, samples), which returns vectors log2_fold_change, p_value and p_adj,
# a value a gene. The last of FITS fits is measured; reading, writing and packages are not in it.

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[2]
out <- arguments[3]
suppressPackageStartupMessages(source(arguments[1]))

samples <- read.csv(file.path(folder, "samples.csv"), row.names = 1, stringsAsFactors = TRUE)
counts <- as.matrix(read.csv(
  file.path(folder, "counts.csv.gz"),
  row.names = 1,
  colClasses = c("character", rep("integer", nrow(samples)))
))

for (i in seq_len(as.integer(arguments[4]))) {
  begin <- proc.time()
  found <- fit(counts, samples)
  spent <- proc.time() - begin
}

table <- data.frame(gene = rownames(counts), found)
write.csv(table, file.path(out, "results.csv"), row.names = FALSE, na = "")
line <- sprintf(
  '{"fit_wall_s": %.6f, "fit_cpu_s": %.6f}', spent[["elapsed"]], sum(spent[-3], na.rm = TRUE)
)
writeLines(line, file.path(out, "found.json"))
