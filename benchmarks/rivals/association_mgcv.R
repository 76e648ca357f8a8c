# A negative-binomial additive model a gene, a smooth a lineage, as tradeSeq fits it.
#
# tradeSeq (Van den Berge et al. 2020, Nature Communications 11:1201) draws every cell's lineage in
# proportion to its weights, and so is it done here. Statistics: likelihood ratio of the fitted model
# to a constant mean, and a Wald test of equal log means at neighbouring points along each lineage,
# its test of association. p_value is that of the latter.

library(mgcv)

KNOTS <- 6
POINTS <- 2 * KNOTS

fit <- function(counts, design, samples) {
  set.seed(1)
  times <- as.matrix(samples[grep("^pseudotime", names(samples))])
  weights <- as.matrix(samples[grep("^weight", names(samples))])
  lineage <- apply(weights, 1, function(w) sample(length(w), 1, prob = w))
  data <- data.frame(size = log(samples$size_factor))
  for (j in seq_len(ncol(times))) {
    data[[paste0("t", j)]] <- times[, j]
    data[[paste0("l", j)]] <- as.numeric(lineage == j)
  }
  smooths <- sprintf("s(t%1$d, by = l%1$d, bs = 'cr', k = %2$d)", seq_len(ncol(times)), KNOTS)
  # Every cell is in one lineage, whose smooth has the level.
  full <- as.formula(paste("y ~ -1 +", paste(smooths, collapse = " + "), "+ offset(size)"))
  points <- along(data, ncol(times))
  found <- apply(counts, 1, one, data = data, full = full, points = points)
  list(
    likelihood_ratio = found["likelihood_ratio", ],
    wald = found["wald", ],
    p_value = found["p_value", ]
  )
}

# Rows at equal distances along every lineage.
along <- function(data, lineages) {
  parts <- lapply(seq_len(lineages), function(j) {
    own <- data[[paste0("t", j)]][data[[paste0("l", j)]] == 1]
    rows <- data[rep(1, POINTS), ]
    rows$size <- 0
    for (i in seq_len(lineages)) rows[[paste0("l", i)]] <- as.numeric(i == j)
    rows[[paste0("t", j)]] <- seq(min(own), max(own), length.out = POINTS)
    rows
  })
  do.call(rbind, parts)
}

one <- function(y, data, full, points) {
  data$y <- y
  model <- gam(full, family = nb(), data = data, method = "REML")
  constant <- gam(y ~ 1 + offset(size), family = nb(), data = data, method = "REML")
  x <- predict(model, points, type = "lpmatrix")
  last <- seq(POINTS, nrow(x), POINTS)
  change <- (x[-1, ] - x[-nrow(x), ])[-head(last, -1), ]
  value <- drop(change %*% coef(model))
  spread <- eigen(change %*% vcov(model) %*% t(change), symmetric = TRUE)
  # Directions with a share of 1e-8 of the largest variance are rounding.
  some <- spread$values > 1e-8 * spread$values[1]
  wald <- sum(drop(crossprod(spread$vectors[, some], value))^2 / spread$values[some])
  c(
    likelihood_ratio = 2 * as.numeric(logLik(model) - logLik(constant)),
    wald = wald,
    p_value = pchisq(wald, sum(some), lower.tail = FALSE)
  )
}
