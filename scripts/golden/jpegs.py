#!/usr/bin/env python3
"""What libjpeg-turbo (in Pillow) makes of usual JPEGs: the expectations of offshoot-data's decoder, which must be equal.

    jpegs.py     writes crates/offshoot-data/tests/golden/jpegs (small pictures, cases.txt and expected.rgb)

Needs Pillow and numpy.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).resolve().parents[2] / "crates/offshoot-data/tests/golden/jpegs"
SIZES = [(1, 1), (2, 3), (3, 2), (4, 5), (5, 4), (9, 17), (16, 16), (33, 18), (50, 41)]
KINDS = {
    "baseline": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restart": {"restart_marker_blocks": 3},
    "progressive_restart": {"progressive": True, "restart_marker_rows": 1},
}


def scene(width, height, seed):
    """Waves, edges and noise, so that all coefficients occur."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x * a + 1) * np.cos(y * b) for a, b in ((0.2, 0.3), (0.5, 0.1), (0.9, 0.7))]
    pixels = np.stack(waves, -1) + random.normal(0, 12, (height, width, 3))
    pixels[(x // 6 + y // 5) % 4 == 0] = (250, 5, 30)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def files():
    for n, (width, height) in enumerate(SIZES):
        picture = scene(width, height, n)
        for m, (kind, options) in enumerate(KINDS.items()):
            for sampling in ("4:4:4", "4:2:2", "4:2:0"):
                # Small pictures are about edges, the last ones about all kinds.
                if n < len(SIZES) - 2 and kind not in ("baseline", "progressive"):
                    continue
                quality = (30, 60, 85, 95, 100)[(n + m) % 5]
                yield f"{kind}_{sampling.replace(':', '')}_{width}x{height}.jpg", picture, {
                    **options, "quality": quality, "subsampling": sampling}
    yield "gray.jpg", scene(27, 19, 50).convert("L"), {"quality": 90}
    yield "gray_progressive.jpg", scene(27, 19, 51).convert("L"), {"quality": 90, "progressive": True}
    # Coefficients as large as they get, which overshoot black and white.
    hard = Image.fromarray(np.where(np.random.default_rng(9).random((24, 24, 3)) < 0.5, 0, 255).astype(np.uint8))
    yield "hard.jpg", hard, {"quality": 100, "subsampling": "4:4:4"}
    yield "coarse.jpg", hard, {"quality": 3, "subsampling": "4:2:0"}


def main():
    GOLDEN.mkdir(exist_ok=True)
    lines = ["# Written by scripts/golden/jpegs.py; the last three numbers: width, height and place in expected.rgb."]
    expected = b""
    for name, picture, options in files():
        out = io.BytesIO()
        picture.save(out, "JPEG", **options)
        (GOLDEN / name).write_bytes(out.getvalue())
        pixels = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
        lines.append(f"{name} {pixels.width} {pixels.height} {len(expected)}")
        expected += pixels.tobytes()
    (GOLDEN / "cases.txt").write_text("\n".join(lines) + "\n")
    (GOLDEN / "expected.rgb").write_bytes(expected)


if __name__ == "__main__":
    main()
