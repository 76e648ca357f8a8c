"""Mathematics without genes, files or networks: cohorts, solvers, special functions."""
