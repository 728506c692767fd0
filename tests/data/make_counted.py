"""Counts the key points of the embedded photographs' first crops anew; all embedded patches may change with them."""

from instahide_nb.data import crops
from instahide_nb.data.embedded import public_regions

for holder in ("challenge", "attacker"):
    regions = public_regions(holder)
    counts = crops.count_key_points(crops.grey_reader(regions), *crops.draw_crops(regions, 0, 6144))
    crops._write_counts(crops._COUNTED, crops._key(regions), counts)
