"""Counts the key points of the embedded photographs' first crops again and says how many counts differ on this machine.

With ``--write`` it replaces the counts in the package; all embedded public images may change with them.
"""

import sys

from instahide_nb.data import crops
from instahide_nb.data.embedded import public_regions

for holder in ("challenge", "attacker"):
    regions = public_regions(holder)
    known = crops._read_counts(crops._COUNTED, crops._key(regions))
    counts = crops.count_key_points(crops.grey_reader(regions), *crops.draw_crops(regions, 0, 6144))
    change = abs(counts - known) if len(known) == len(counts) else counts
    print(f"{holder}: {(change > 0).sum()} of {len(counts)} counts differ, by up to {change.max()}", flush=True)
    if "--write" in sys.argv:
        crops._write_counts(crops._COUNTED, crops._key(regions), counts)
