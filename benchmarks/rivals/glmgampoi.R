# glmGamPoi by itself: quasi-likelihood ratio test, counts in memory.

library(glmGamPoi)

fit <- function(counts, samples) {
  fitted <- glm_gp(counts, ~ batch + condition, col_data = samples, on_disk = FALSE)
  found <- test_de(fitted, contrast = "conditiontreated")
  list(log2_fold_change = found$lfc, p_value = found$pval, p_adj = found$adj_pval)
}
