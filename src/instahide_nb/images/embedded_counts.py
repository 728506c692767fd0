"""Key point counts of the embedded photographs' first crops, which the package carries.

SIFT's count of a crop differs by up to three between processors with and without AVX2, and about one embedded crop in
5,000 has a count on either side of the cut at 40. One such crop shifts every later patch, and so
every number of the demo. The demo is to be the same on any machine, so its counts are files of the package,
found under the key of `instahide_nb.images.crop_table`; other sources, draws and sizes are counted where they are used.

``python -m instahide_nb.images.embedded_counts`` counts again and writes the files (with other photographs or another
stream there are other keys); a test recounts and compares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from instahide_nb.storage import load_array, make_folder, save_array

__all__ = ["CROPS", "carried_counts"]

CROPS = 6144
"""How many crops of each embedded source are carried: about 5,000 pass the cut at 40."""

_FOLDER = Path(__file__).parent / "counted"


def carried_counts(key: str) -> npt.NDArray[np.int64]:
    """The counts that the package carries for a table's key, shape (m,); none for other tables.

    Examples
    --------
    >>> carried_counts("0" * 64).shape
    (0,)
    """
    file = _FOLDER / f"{key[:32]}.npy"
    if not file.is_file():
        return np.zeros(0, np.int64)
    return load_array(file, dtype=np.uint16, shape=(None,)).astype(np.int64)


def main() -> None:
    """Count the key points of the first crops of both embedded sources, and write them."""
    from instahide_nb.images.crop_table import table_key
    from instahide_nb.images.crops import KeyPointCounter, draw_crops
    from instahide_nb.images.embedded import public_regions

    make_folder(_FOLDER)
    for holder in ("challenge", "attacker"):
        photographs = public_regions(holder)
        counts = KeyPointCounter(photographs).count(*draw_crops(photographs, 0, CROPS))
        file = _FOLDER / f"{table_key(photographs)[:32]}.npy"
        save_array(file, counts.astype(np.uint16))
        print(f"{holder}: {(counts > 40).sum()} of {CROPS} crops pass; {file.name}")


if __name__ == "__main__":
    main()
