"""Used by every room: errors, progress, threads, files, parameters and the folder of a run."""
