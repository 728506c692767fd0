"""`prng-seed` and `prng-state`: the random generator instead of the images (docs/generator.md)."""
