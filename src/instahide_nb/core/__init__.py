"""Used by every layer: errors, progress, threads, files, parameters and the folder of a run."""
