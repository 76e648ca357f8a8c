# Reference numbers for loess of one variable, from R's stats::loess, and for lowess with outliers.
#
#   Rscript tests/reference/make_loess.R [folder]
#
# writes loess.json into the folder (default: the script's own). Numbers carry 17 digits.
# The curves are like the ones the dispersion prior smooths (a score of 200 grid points), and
# shorter, jagged and unevenly spaced ones, whose k-d trees cut elsewhere.
#
# Run with R 4.2.2 (the file names the version that made it).

numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ","), "]")

curve_of <- function(x, y, span) {
  inner <- x[-length(x)] + diff(x) / 3
  at <- sort(c(x, inner))
  fitted <- predict(loess(y ~ x, span = span), data.frame(x = at))
  paste0("{\"span\": ", sprintf("%.17g", span), ",\n   \"x\": ", numbers(x), ",\n   \"y\": ", numbers(y),
         ",\n   \"at\": ", numbers(at), ",\n   \"fitted\": ", numbers(unname(fitted)), "}")
}

set.seed(301)
grid <- seq(0, 8, length.out = 200)
uneven <- sort(rgamma(61, 2))
curves <- c(
  smooth = curve_of(grid, log(1 + (grid - 2.7)^2) + rnorm(200, 0, .02), .2),
  jagged = curve_of(grid, rep(c(0, 1, .3, -2, .7), 40) * grid, .2),
  uneven = curve_of(uneven, sin(2 * uneven) + rnorm(61, 0, .1), .35),
  wide = curve_of(uneven, uneven^3, .75),
  short = curve_of(c(1, 2, 4, 5, 7, 8, 11, 12, 13, 17), c(2, 1, 4, 3, 8, 6, 9, 12, 10, 15), .8))

# A smooth whose window holds nothing but outliers at some points: they keep their value.
x <- seq(0, 1, length.out = 40)
y <- 2 * x + .1 * cos(40 * x)
y[c(18, 30)] <- c(1e3, -50)
lowess_case <- paste0("{\"span\": 0.3, \"x\": ", numbers(x), ",\n   \"y\": ", numbers(y),
                      ",\n   \"fitted\": ", numbers(lowess(x, y, .3)$y), "}")

arguments <- commandArgs(FALSE)
script <- sub("^--file=", "", grep("^--file=", arguments, value = TRUE))
folder <- if (length(commandArgs(TRUE))) commandArgs(TRUE)[1] else dirname(script)
version <- paste(R.version$major, R.version$minor, sep = ".")
writeLines(paste0("{\"versions\": {\"R\": \"", version, "\"},\n \"curves\": {\n",
                  paste0("  \"", names(curves), "\": ", curves, collapse = ",\n"), "},\n \"lowess_outliers\": ", lowess_case, "}"),
           file.path(folder, "loess.json"))
