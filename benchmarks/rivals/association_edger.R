# edgeR's quasi-likelihood test of all columns beside the level.

library(edgeR)

fit <- function(counts, design, samples) {
  # Library sizes proportional to the size factors, so that offsets are theirs.
  data <- DGEList(counts, lib.size = samples$size_factor * mean(colSums(counts)))
  data <- estimateDisp(data, design)
  found <- glmQLFTest(glmQLFit(data, design), coef = 2:ncol(design))$table
  list(f = found$F, p_value = found$PValue)
}
