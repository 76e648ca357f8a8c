# DESeq2 with glmGamPoi's dispersions, which need the likelihood-ratio test.

library(DESeq2)
library(glmGamPoi)

fit <- function(counts, samples) {
  data <- DESeqDataSetFromMatrix(counts, samples, ~ batch + condition)
  fitted <- DESeq(data, test = "LRT", fitType = "glmGamPoi", reduced = ~batch, quiet = TRUE)
  found <- results(fitted) # of the last coefficient, which glmGamPoi names in its own way
  list(log2_fold_change = found$log2FoldChange, p_value = found$pvalue, p_adj = found$padj)
}
