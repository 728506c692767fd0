"""The InstaHide Challenge, reproducible: encryption, attacks and evaluation.

Nothing is imported here, so that the command line starts fast; each module says what it is for. Start with
:mod:`instahide_nb.challenge` (the scheme), :mod:`instahide_nb.attack` (back to the private images) and
:mod:`instahide_nb.metrics` (how near they came).
"""

__version__ = "0.1.0"
