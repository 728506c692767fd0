"""Pictures: grids with exact pixels, plots for a paper, and how notebooks show them."""
