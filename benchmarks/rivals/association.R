# Tests of association with pseudotime: Rscript association.R ADAPTER FOLDER OUT
#
# ADAPTER defines fit(counts, design, samples), which returns p_value and statistics, a value a
# gene. FOLDER has counts.csv (genes x cells), design.csv (columns of curves, the level first) and
# samples.csv (pseudotimes and weights of lineages, size_factor).

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[2]
suppressPackageStartupMessages(source(arguments[1]))

table <- function(name) {
  read.csv(file.path(folder, name), row.names = 1, check.names = FALSE)
}
counts <- as.matrix(table("counts.csv"))
found <- fit(counts, as.matrix(table("design.csv")), table("samples.csv"))
write.csv(data.frame(gene = rownames(counts), found), arguments[3], row.names = FALSE, na = "")
