"""Draws ``lettering.png`` anew from the DejaVu fonts that Matplotlib ships; every hashed picture changes with it."""

from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from instahide_nb.show import grids

bands = []
for file, size in grids.STYLES.values():
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{file}", size)
    ascent, descent = font.getmetrics()
    strips = []
    for letter in grids.CHARACTERS:
        strip = Image.new("L", (max(1, round(font.getlength(letter))), ascent + descent))
        ImageDraw.Draw(strip).text((0, 0), letter, fill=254, font=font)
        strips.append(np.asarray(strip))
    marks = np.zeros((1, sum(strip.shape[1] for strip in strips) + 1), np.uint8)
    marks[0, np.cumsum([0, *(strip.shape[1] for strip in strips)])] = 255
    bands.append(np.vstack([marks, np.pad(np.hstack(strips), ((0, 0), (0, 1)))]))
width = max(band.shape[1] for band in bands)
rows = []
for band in bands:
    rows += [np.pad(band, ((0, 0), (0, width - band.shape[1]))), np.full((1, width), 255, np.uint8)]
grids.write_png(Path(grids.__file__).with_name("lettering.png"), np.vstack(rows))
