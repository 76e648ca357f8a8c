# DESeq2 as its vignette runs it: Wald test, refit of outliers, independent filtering.

library(DESeq2)

fit <- function(counts, samples) {
  data <- DESeqDataSetFromMatrix(counts, samples, ~ batch + condition)
  found <- results(DESeq(data, quiet = TRUE), contrast = c("condition", "treated", "control"))
  list(log2_fold_change = found$log2FoldChange, p_value = found$pvalue, p_adj = found$padj)
}
