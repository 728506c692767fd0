"""The decorator of compiled functions.

Every kernel is compiled by numba with the same options. Its code is kept for later processes (`cache`) and it lets
other threads run (`nogil`). Division is that of IEEE 754 (`error_model`): testing each divisor for zero would keep
loops from being vectorised. There is no fast-math, so sums have the order in which they are written.

Kernels copy element by element. To assign a slice to another compiles numba's text routines, for the message of an
error: three seconds per kernel. Arguments of another layout or type compile a function once more.
"""

from __future__ import annotations

import numba

kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
