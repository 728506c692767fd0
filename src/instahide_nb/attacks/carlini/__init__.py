"""The published attack on the InstaHide Challenge, one module per stage."""
