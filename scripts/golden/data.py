#!/usr/bin/env python3
"""What Pillow and torchvision make of pictures: the expectations of offshoot-data's tests.

    data.py golden                 writes crates/offshoot-data/tests/golden (small pictures and expected results)
    data.py expect OUT FIT PATH..  writes OUT/<n>.rgb for the n-th path: 224x224 RGB bytes, white background

Needs Pillow, numpy, torch and torchvision.
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

GOLDEN = Path(__file__).resolve().parents[2] / "crates/offshoot-data/tests/golden"
FILTERS = {
    "nearest": (Image.Resampling.NEAREST, F.InterpolationMode.NEAREST),
    "bilinear": (Image.Resampling.BILINEAR, F.InterpolationMode.BILINEAR),
    "bicubic": (Image.Resampling.BICUBIC, F.InterpolationMode.BICUBIC),
    "lanczos": (Image.Resampling.LANCZOS, F.InterpolationMode.LANCZOS),
}


def to_rgb(picture, background):
    """First frame, rotated by EXIF, 8 bits, over the background."""
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion to RGB would clip at 255 instead of scaling; RGB at 16 bits it scales like this.
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        over = Image.new("RGB", picture.size, background)
        over.paste(picture, mask=picture.getchannel("A"))
        return over
    return picture.convert("RGB")


def fitted(picture, fit, size, resize, interpolation, background):
    pillow, torchvision = FILTERS[interpolation]
    if fit == "crop":
        return F.center_crop(F.resize(picture, resize, torchvision, antialias=True), size)
    if fit == "pad":
        side = max(picture.size)
        square = Image.new("RGB", (side, side), background)
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    return picture.resize((size, size), pillow)


def scene(width, height, seed=0):
    """Smooth colours, hard edges and some noise: RGBA."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.zeros((height, width, 4))
    pixels[..., 0] = 255 * x / max(width - 1, 1)
    pixels[..., 1] = 255 * y / max(height - 1, 1)
    pixels[..., 2] = 127 + 120 * np.sin(x * 0.35) * np.cos(y * 0.25)
    pixels[(x // 9 + y // 7) % 5 == 0, :3] = (30, 200, 90)
    pixels[..., :3] += random.normal(0, 8, (height, width, 3))
    pixels[..., 3] = np.clip(300 - 12 * np.hypot(x - width / 2, y - height / 2), 0, 255)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def png(width, height, depth, colour, rows, extra=b""):
    """A PNG of a kind that Pillow cannot write; `rows` are the packed bytes of each row."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def jpegs():
    rgb = scene(31, 22).convert("RGB")
    for name, subsampling in (("420", "4:2:0"), ("422", "4:2:2"), ("444", "4:4:4")):
        yield f"baseline_{name}.jpg", encoded(rgb, "JPEG", quality=90, subsampling=subsampling)
    yield "progressive.jpg", encoded(rgb, "JPEG", quality=85, progressive=True)
    yield "restart.jpg", encoded(rgb, "JPEG", quality=85, restart_marker_blocks=2)
    yield "grey.jpg", encoded(rgb.convert("L"), "JPEG", quality=90)
    cmyk = encoded(rgb.convert("CMYK"), "JPEG", quality=90)
    yield "cmyk.jpg", cmyk
    adobe = cmyk.index(b"Adobe")
    yield "ycck.jpg", cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]
    yield "wrong_extension.png", encoded(rgb, "JPEG", quality=90)
    for orientation in range(1, 9):
        small = scene(24, 17).convert("RGB")
        yield f"exif_{orientation}.jpg", encoded(
            small, "JPEG", quality=95, subsampling="4:4:4", exif=exif(orientation)
        )


def pngs():
    rgba = scene(31, 22)
    rgb = rgba.convert("RGB")
    grey = rgb.convert("L")
    yield "rgb.png", encoded(rgb, "PNG")
    yield "rgba.png", encoded(rgba, "PNG")
    yield "grey.png", encoded(grey, "PNG")
    yield "grey_alpha.png", encoded(rgba.convert("LA"), "PNG")
    palette = rgb.quantize(17)
    yield "palette.png", encoded(palette, "PNG")
    yield "palette_alpha.png", encoded(palette, "PNG", transparency=bytes(range(0, 255, 15)))
    yield "bits1.png", encoded(grey.convert("1"), "PNG")
    bits2 = np.random.default_rng(1).integers(0, 256, (9, 5), dtype=np.uint8)
    yield "bits2.png", png(18, 9, 2, 0, [row.tobytes() for row in bits2])
    bits4 = np.random.default_rng(2).integers(0, 256, (9, 5), dtype=np.uint8)
    yield "bits4.png", png(9, 9, 4, 0, [row.tobytes() for row in bits4])
    yield "grey_key.png", encoded(grey, "PNG", transparency=grey.getpixel((3, 3)))
    yield "rgb_key.png", encoded(rgb.quantize(9).convert("RGB"), "PNG", transparency=(30, 200, 90))
    yield "exif_6.png", encoded(scene(24, 17), "PNG", exif=exif(6))
    wide = np.random.default_rng(3).integers(0, 1 << 16, (11, 13, 4), dtype=np.uint16).astype(">u2")
    yield "grey16.png", png(13, 11, 16, 0, [row.tobytes() for row in wide[..., 0]])
    yield "grey_alpha16.png", png(13, 11, 16, 4, [row.tobytes() for row in wide[..., :2]])
    yield "rgb16.png", png(13, 11, 16, 2, [row.tobytes() for row in wide[..., :3]])
    yield "rgba16.png", png(13, 11, 16, 6, [row.tobytes() for row in wide])


def others():
    rgba = scene(31, 22)
    rgb = rgba.convert("RGB")
    frames = [scene(31, 22, seed).convert("RGB") for seed in (1, 2)]
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "lossless_alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True)
    yield "lossy.webp", encoded(rgb, "WEBP", quality=90)
    yield "lossy_alpha.webp", encoded(rgba, "WEBP", quality=90)
    yield "animated.webp", encoded(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    yield "exif_8.webp", encoded(scene(24, 17).convert("RGB"), "WEBP", lossless=True, exif=exif(8))
    yield "palette.gif", encoded(rgb, "GIF")
    keyed = rgb.quantize(16)
    yield "transparent.gif", encoded(keyed, "GIF", transparency=keyed.getpixel((5, 5)))
    yield "animated.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "rgb.bmp", encoded(rgb, "BMP")
    yield "rgbx.bmp", encoded(rgba, "BMP")
    yield "palette.bmp", encoded(rgb.quantize(16), "BMP")
    yield "bits1.bmp", encoded(rgb.convert("1"), "BMP")
    yield "rgb.tif", encoded(rgb, "TIFF")
    yield "rgba_lzw.tif", encoded(rgba, "TIFF", compression="tiff_lzw")
    yield "grey_deflate.tif", encoded(rgb.convert("L"), "TIFF", compression="tiff_adobe_deflate")
    yield "cmyk.tif", encoded(rgb.convert("CMYK"), "TIFF")
    yield "bits1.tif", encoded(rgb.convert("1"), "TIFF")
    yield "exif_3.tif", encoded(scene(24, 17).convert("RGB"), "TIFF", tiffinfo={274: 3})


def transforms():
    """(picture, fit, interpolation, size, resize, background)"""
    for name in ("wide.png", "tall.png", "small.png", "thin.png"):
        for fit in ("crop", "pad", "stretch"):
            for interpolation in FILTERS:
                yield name, fit, interpolation, 17, 20, (255, 255, 255)
    yield "wide.png", "pad", "bilinear", 33, 33, (10, 20, 30)
    yield "tall.png", "crop", "bicubic", 25, 32, (0, 128, 255)
    yield "square.png", "crop", "bilinear", 32, 32, (255, 255, 255)
    yield "square.png", "pad", "lanczos", 32, 32, (255, 255, 255)
    yield "square.jpg", "crop", "bilinear", 32, 36, (255, 255, 255)


CROPS = [("wide.png", 11, 7, 60, 41), ("tall.png", 3, 90, 40, 33), ("small.png", 2, 1, 5, 4)]
SHAPES = [(1000, 10), (10, 1000), (3, 1), (1, 7), (5, 1)]


def golden():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.glob("*.*"):
        old.unlink()
    lines = ["# Written by scripts/golden/data.py; the last three numbers: width, height and place in expected.rgb."]
    expected = bytearray()

    def expect(line, picture):
        lines.append(f"{line} {picture.width} {picture.height} {len(expected)}")
        expected.extend(picture.tobytes())

    for source in (jpegs(), pngs(), others()):
        for name, data in source:
            (GOLDEN / name).write_bytes(data)
            expect(f"decode {name}", to_rgb(Image.open(GOLDEN / name), (255, 255, 255)))
    expect("over rgba.png 12 200 99", to_rgb(Image.open(GOLDEN / "rgba.png"), (12, 200, 99)))

    shapes = {"wide": (97, 61), "tall": (61, 131), "small": (11, 9), "thin": (3, 90), "square": (32, 32)}
    for name, (width, height) in shapes.items():
        (GOLDEN / f"{name}.png").write_bytes(encoded(scene(width, height), "PNG"))
    jpeg = encoded(scene(64, 64).convert("RGB"), "JPEG", quality=92)
    (GOLDEN / "square.jpg").write_bytes(jpeg)
    for name, fit, interpolation, size, resize, background in transforms():
        picture = fitted(to_rgb(Image.open(GOLDEN / name), background), fit, size, resize, interpolation, background)
        expect(f"fit {name} {fit} {interpolation} {size} {resize} {' '.join(map(str, background))}", picture)

    for name, left, top, width, height in CROPS:
        picture = to_rgb(Image.open(GOLDEN / name), (255, 255, 255))
        cropped = F.resized_crop(picture, top, left, height, width, [20, 20], F.InterpolationMode.BILINEAR)
        expect(f"crop {name} {left} {top} {width} {height} 20", cropped)

    for width, height in SHAPES:
        # No random crop of these shapes fits, so this is the fallback in the middle.
        random = RandomResizedCrop.get_params(Image.new("L", (width, height)), (5.0, 6.0), (3 / 4, 4 / 3))
        top, left, crop_height, crop_width = random
        lines.append(f"middle {width} {height} {left} {top} {crop_width} {crop_height}")

    picture = to_rgb(Image.open(GOLDEN / "square.png"), (255, 255, 255))
    normal = F.normalize(F.to_tensor(picture), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    (GOLDEN / "square.f32").write_bytes(normal.numpy().astype("<f4").tobytes())
    (GOLDEN / "expected.rgb").write_bytes(expected)
    (GOLDEN / "cases.txt").write_text("\n".join(lines) + "\n")
    print(sum(f.stat().st_size for f in GOLDEN.glob("*")), "bytes")


def expect(out, fit, *paths):
    Image.MAX_IMAGE_PIXELS = None
    white = (255, 255, 255)
    for n, path in enumerate(paths):
        picture = fitted(to_rgb(Image.open(path), white), fit, 224, 256, "bilinear", white)
        (Path(out) / f"{n}.rgb").write_bytes(picture.tobytes())


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"golden": golden, "expect": expect}[sys.argv[1]](*sys.argv[2:])
