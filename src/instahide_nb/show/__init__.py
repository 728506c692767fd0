"""Pictures: grids with exact pixels, plots, and how notebooks show them."""
