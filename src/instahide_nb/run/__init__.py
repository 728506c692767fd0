"""What runs things: the command line, the pipeline of notebooks, manifests and sweeps."""
