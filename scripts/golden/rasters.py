#!/usr/bin/env python3
"""TGA, ICO and QOI pictures, and what Pillow makes of them.

    rasters.py     writes crates/offshoot-data/tests/golden/rasters (small pictures, cases.txt and expected.rgb)

Needs Pillow 12 or newer (which writes QOI) and numpy.
"""

import io
from pathlib import Path

from PIL import Image

from kinds import encoded, scene, to_rgb

GOLDEN = Path(__file__).resolve().parents[2] / "crates/offshoot-data/tests/golden/rasters"


def pictures():
    """Names and bytes of files."""
    rgba = scene()
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(32)
    for name, picture in [("rgb", rgb), ("rgba", rgba), ("gray", gray), ("palette", palette)]:
        yield f"{name}.tga", encoded(picture, "TGA")
        yield f"{name}_rle.tga", encoded(picture, "TGA", compression="tga_rle")
    yield "rows_upward.tga", encoded(rgb, "TGA", orientation=-1)
    yield "rows_downward.tga", encoded(rgb, "TGA", orientation=1)
    yield "rgb.qoi", encoded(rgb, "QOI")
    yield "rgba.qoi", encoded(rgba, "QOI")
    square = scene(32, 32)
    yield "png.ico", encoded(square, "ICO", sizes=[(32, 32)])
    yield "bmp.ico", encoded(square, "ICO", sizes=[(32, 32)], bitmap_format="bmp")
    yield "sizes.ico", encoded(square, "ICO", sizes=[(16, 16), (32, 32), (24, 24)])


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    cases, expected = [], b""
    for name, content in pictures():
        (GOLDEN / name).write_bytes(content)
        picture = to_rgb(Image.open(io.BytesIO(content)))
        cases.append(f"{name} {picture.width} {picture.height} {len(expected)}\n")
        expected += picture.tobytes()
    (GOLDEN / "cases.txt").write_text("".join(cases))
    (GOLDEN / "expected.rgb").write_bytes(expected)


if __name__ == "__main__":
    main()
