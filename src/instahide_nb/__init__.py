"""The InstaHide Challenge, reproducible: encryption, attacks and evaluation.

Nothing is imported here, so that the command line starts fast. Each folder is one room, and imports only from rooms
above it in this list: `core`, `scheme`, `data`, `challenge`, `attacks`, `evaluate`, `show`, `run`.
"""

__version__ = "0.1.0"
