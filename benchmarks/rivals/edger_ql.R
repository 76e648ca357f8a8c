# edgeR's quasi-likelihood pipeline, all genes kept.

library(edgeR)

fit <- function(counts, samples) {
  design <- model.matrix(~ batch + condition, samples)
  data <- calcNormFactors(DGEList(counts))
  data <- estimateDisp(data, design)
  found <- glmQLFTest(glmQLFit(data, design), coef = "conditiontreated")$table
  list(
    log2_fold_change = found$logFC, p_value = found$PValue, p_adj = p.adjust(found$PValue, "BH")
  )
}
