"""`prng-seed` and `prng-state`: attacks on the random generator instead of the images."""
