"""The published attack on the InstaHide Challenge (Carlini et al., arXiv 2011.05315)."""
