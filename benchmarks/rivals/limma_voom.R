# limma-voom: a linear model of log counts with precision weights, all genes kept.

library(limma)
library(edgeR)

fit <- function(counts, samples) {
  design <- model.matrix(~ batch + condition, samples)
  weighted <- voom(calcNormFactors(DGEList(counts)), design)
  fitted <- eBayes(lmFit(weighted, design))
  p_value <- fitted$p.value[, "conditiontreated"]
  list(
    log2_fold_change = fitted$coefficients[, "conditiontreated"],
    p_value = p_value,
    p_adj = p.adjust(p_value, "BH")
  )
}
