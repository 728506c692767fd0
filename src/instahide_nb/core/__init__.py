"""What every room stands on: errors, progress bars, threads, files and parameters."""
