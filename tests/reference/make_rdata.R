# Small objects of R's data files, as packages of Bioconductor have kept counts: run in this folder.
# Written to rdata.json as base64, with what they hold.
suppressMessages({
  library(SummarizedExperiment); library(Biobase); library(GenomicRanges); library(jsonlite)
})
genes <- paste0("gene", 1:6); people <- paste0("s", 1:4)
counts <- matrix(c(0:22, 1000L), 6, 4, dimnames = list(genes, people))
table <- data.frame(
  strain = factor(c("wt", "wt", "mut", "mut"), levels = c("wt", "mut")),
  minute = c(0, 15, 0, 15), id = letters[1:4], row.names = people, stringsAsFactors = FALSE
)
base64 <- function(..., compress = "gzip") {
  path <- tempfile(); on.exit(unlink(path))
  save(..., file = path, envir = globalenv(), compress = compress)
  base64_enc(readBin(path, "raw", file.size(path)))
}
ranges <- GRanges("I", IRanges(1:6, width = 10)); names(ranges) <- genes
bare <- counts; dimnames(bare) <- NULL
experiment <- SummarizedExperiment(
  SimpleList(counts = bare), rowRanges = ranges, colData = DataFrame(table)
)
set <- ExpressionSet(counts * 1.0, AnnotatedDataFrame(table))
other <- data.frame(gene = genes, set = "a"); values <- as.data.frame(counts / 4); meta <- table
writeLines(toJSON(list(
  versions = list(
    R = as.character(getRversion()), Biobase = as.character(packageVersion("Biobase")),
    SummarizedExperiment = as.character(packageVersion("SummarizedExperiment"))
  ),
  genes = genes, samples = people, counts = t(unname(counts)),
  experiment = base64(experiment), set = base64(set),
  frame = base64(other, values, meta, compress = "xz")
), auto_unbox = TRUE, digits = NA, pretty = TRUE), "rdata.json")
