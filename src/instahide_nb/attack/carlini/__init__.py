"""The published attack on the InstaHide Challenge, a module for each of its stages; `versions` runs them in order."""
