#!/usr/bin/env python3
"""Kinds of JPEG, TIFF, PNG, WebP and PNM that data.py does not have, and what Pillow makes of them.

    kinds.py     writes crates/offshoot-data/tests/golden/kinds (small pictures, cases.txt and expected.rgb)

Needs Pillow and numpy.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

GOLDEN = Path(__file__).resolve().parents[2] / "crates/offshoot-data/tests/golden/kinds"
WIDTH, HEIGHT = 23, 18
FIT = {"quality": 92}


def to_rgb(picture):
    """First frame, rotated by Exif or XMP, 8 bits, over white."""
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        over = Image.new("RGB", picture.size, (255, 255, 255))
        over.paste(picture, mask=picture.getchannel("A"))
        return over
    return picture.convert("RGB")


def scene(width=WIDTH, height=HEIGHT):
    """Smooth colours and one hard edge: RGBA."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.zeros((height, width, 4))
    pixels[..., 0] = 255 * x / (width - 1)
    pixels[..., 1] = 255 * y / (height - 1)
    pixels[..., 2] = 127 + 120 * np.sin(x * 0.2) * np.cos(y * 0.15)
    pixels[height // 2 :, width // 2 :, :3] = (30, 200, 90)
    pixels[..., 3] = np.clip(300 - 14 * np.hypot(x - width / 2, y - height / 2), 0, 255)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def adobe(transform):
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0" [:15] + bytes([transform])


def without_jfif(jpeg):
    """Without the APP0 segment that Pillow writes first."""
    assert jpeg[2:4] == b"\xff\xe0"
    return jpeg[:2] + jpeg[4 + struct.unpack(">H", jpeg[4:6])[0] :]


def after_jfif(jpeg, segment):
    end = 4 + struct.unpack(">H", jpeg[4:6])[0]
    return jpeg[:end] + segment + jpeg[end:]


def renamed(jpeg, names):
    """With other names of components, in the frame and in the scans."""
    data, at = bytearray(jpeg), 2
    while data[at + 1] != 0xDA:
        if 0xC0 <= data[at + 1] <= 0xC2:
            for i, name in enumerate(names):
                data[at + 10 + 3 * i] = name
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    for i, name in enumerate(names):
        data[at + 5 + 2 * i] = name
    return bytes(data)


def resampled(jpeg, factors, size):
    """With other sampling factors of the first component, and another size."""
    data, at = bytearray(jpeg), 2
    while data[at + 1] != 0xC0:
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    data[at + 5 : at + 9] = struct.pack(">HH", size[1], size[0])
    data[at + 11] = factors
    return bytes(data)


def jpegs():
    rgb = scene().convert("RGB")
    # Pillow writes RGB as it is with keep_rgb, and YCbCr otherwise.
    for name, sampling in (("420", "4:2:0"), ("422", "4:2:2"), ("444", "4:4:4")):
        plain = encoded(rgb, "JPEG", subsampling=sampling, **FIT)
        for transform in (0, 1):
            yield f"jfif_adobe{transform}_{name}.jpg", after_jfif(plain, adobe(transform))
            bare = without_jfif(plain)
            yield f"adobe{transform}_{name}.jpg", bare[:2] + adobe(transform) + bare[2:]
        yield f"bare_{name}.jpg", without_jfif(plain)
    raw = encoded(rgb, "JPEG", keep_rgb=True, **FIT)
    yield "rgb_adobe0.jpg", raw
    bare = raw.replace(raw[2 : 4 + struct.unpack(">H", raw[4:6])[0]], b"", 1)
    yield "rgb_names.jpg", renamed(bare, b"RGB")
    yield "names_0_1_2.jpg", renamed(without_jfif(encoded(rgb, "JPEG", subsampling="4:4:4", **FIT)), bytes([0, 1, 2]))
    # The blocks of a file with as many blocks a unit, arranged otherwise: samplings that Pillow does not write.
    square = scene(32, 32).convert("RGB")
    for name, sampling, factors, size in (
        ("440", "4:2:2", 0x12, (16, 64)),
        ("411", "4:2:0", 0x41, (64, 16)),
        ("141", "4:2:0", 0x14, (16, 64)),
    ):
        yield f"sampling_{name}.jpg", resampled(encoded(square, "JPEG", subsampling=sampling, **FIT), factors, size)
    cmyk = encoded(rgb.convert("CMYK"), "JPEG", **FIT)
    at = cmyk.index(b"Adobe") - 4
    for transform in (0, 1, 2):
        yield f"cmyk_adobe{transform}.jpg", cmyk[: at + 15] + bytes([transform]) + cmyk[at + 16 :]
    yield "cmyk_bare.jpg", cmyk[:at] + cmyk[at + 16 :]


def entry(tag, kind, count, value):
    return struct.pack("<HHII", tag, kind, count, value)


def exif(kind, value, prefix=b""):
    return prefix + b"II*\0\x08\0\0\0\x01\0" + entry(0x0112, kind, 1, value) + b"\0\0\0\0"


def xmp(value, element=False):
    inner = f"<tiff:Orientation>{value}</tiff:Orientation>" if element else ""
    attribute = "" if element else f' tiff:Orientation="{value}"'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{inner}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def app1(data):
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


def orientations():
    rgb = scene().convert("RGB")
    jpeg = encoded(rgb, "JPEG", subsampling="4:4:4", **FIT)
    yield "exif_long.jpg", after_jfif(jpeg, app1(exif(4, 6, b"Exif\0\0")))
    yield "xmp.jpg", after_jfif(jpeg, app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp(8)))
    yield "xmp_element.jpg", after_jfif(jpeg, app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp(3, True)))
    both = app1(exif(3, 1, b"Exif\0\0")) + app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp(8))
    yield "exif_before_xmp.jpg", after_jfif(jpeg, both)
    png = encoded(rgb, "PNG")
    start, end = png[:33], png[-12:]
    picture = png[33:-12]
    yield "exif_after.png", start + picture + chunk(b"eXIf", exif(3, 6)) + end
    yield "exif_long.png", start + chunk(b"eXIf", exif(4, 5)) + picture + end
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(7)
    yield "xmp.png", start + chunk(b"iTXt", text) + picture + end
    yield "xmp_after.png", start + picture + chunk(b"iTXt", text) + end
    packed = b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(xmp(6))
    yield "xmp_packed.png", start + chunk(b"iTXt", packed) + picture + end
    profile = exif(3, 8, b"Exif\0\0")
    digits = f"\nexif\n{len(profile):8}\n".encode() + profile.hex().encode() + b"\n"
    yield "profile.png", start + chunk(b"tEXt", b"Raw profile type exif\0" + digits) + picture + end
    yield "profile_packed.png", start + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits)) + picture + end
    yield "exif_long.webp", encoded(rgb, "WEBP", lossless=True, exif=exif(4, 6, b"Exif\0\0"))
    yield "xmp.webp", encoded(rgb, "WEBP", lossless=True, xmp=xmp(5))
    yield "orientation_long.tif", tiff([(274, 4, 1, 6)], 2, (8, 8, 8), rgb.tobytes())
    yield "xmp.tif", encoded(rgb, "TIFF", tiffinfo={700: xmp(8)})


def tiff(extra, photometric, bits, data, big=False, **more):
    """An uncompressed TIFF of one strip; `extra` are entries whose values fit in them, `more` lists of numbers by tag name."""
    lists = [(258, 3, bits)] + [(int(name[1:]), 3, values) for name, values in more.items()]
    count = 9 + len(lists) + len(extra)
    offset = (16 + 8 + 20 * count + 8) if big else (8 + 2 + 12 * count + 4)
    tail, entries = b"", []

    def add(tag, kind, number, value):
        entries.append((tag, kind, number, value))

    for tag, kind, values in lists:
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) <= (8 if big else 4):
            add(tag, kind, len(values), int.from_bytes(packed, "little"))
        else:
            add(tag, kind, len(values), offset + len(tail))
            tail += packed + b"\0" * (len(packed) % 2)
    add(256, 3, 1, WIDTH)
    add(257, 3, 1, HEIGHT)
    add(259, 3, 1, 1)
    add(262, 3, 1, photometric)
    add(273, 4, 1, offset + len(tail))
    add(277, 3, 1, len(bits))
    add(278, 4, 1, HEIGHT)
    add(279, 4, 1, len(data))
    add(284, 3, 1, 1)
    entries += extra
    entries.sort()
    if big:
        body = struct.pack("<Q", count) + b"".join(struct.pack("<HHQQ", *e) for e in entries) + b"\0" * 8
        return b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + body + tail + data
    body = struct.pack("<H", count) + b"".join(struct.pack("<HHII", *e) for e in entries) + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8) + body + tail + data


def tiffs():
    rgba = scene()
    rgb = rgba.convert("RGB")
    grey = rgb.convert("L")
    yield "palette.tif", encoded(rgb.quantize(40), "TIFF")
    yield "palette_lzw.tif", encoded(rgb.quantize(40), "TIFF", compression="tiff_lzw")
    colours = list(np.random.default_rng(4).integers(0, 1 << 16, 48))
    packed = np.random.default_rng(5).integers(0, 256, (HEIGHT, (WIDTH + 1) // 2), dtype=np.uint8)
    yield "palette4.tif", tiff([], 3, (4,), packed.tobytes(), t320=colours)
    yield "grey4.tif", tiff([], 1, (4,), packed.tobytes())
    yield "white_is_zero.tif", tiff([], 0, (8,), grey.tobytes())
    yield "white_is_zero4.tif", tiff([], 0, (4,), packed.tobytes())
    yield "grey_alpha.tif", encoded(rgba.convert("LA"), "TIFF")
    yield "big.tif", tiff([], 2, (8, 8, 8), rgb.tobytes(), big=True)
    premultiplied = np.asarray(rgba).astype(np.uint32)
    premultiplied[..., :3] = premultiplied[..., :3] * premultiplied[..., 3:] // 255
    data = premultiplied.astype(np.uint8).tobytes()
    yield "premultiplied.tif", tiff([(338, 3, 1, 1)], 2, (8, 8, 8, 8), data)
    yield "straight.tif", tiff([(338, 3, 1, 2)], 2, (8, 8, 8, 8), rgba.tobytes())
    yield "rgbx.tif", tiff([(338, 3, 1, 0)], 2, (8, 8, 8, 8), rgba.tobytes())
    yield "ycbcr_jpeg.tif", encoded(rgb.convert("YCbCr"), "TIFF", compression="jpeg", quality=95)
    yield "rgb_jpeg.tif", encoded(rgb, "TIFF", compression="jpeg", quality=95)
    yield "grey_jpeg.tif", encoded(grey, "TIFF", compression="jpeg", quality=95)
    yield "packbits.tif", encoded(rgb, "TIFF", compression="packbits")
    yield "group4.tif", encoded(rgb.convert("1"), "TIFF", compression="group4")
    wide = np.random.default_rng(6).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    yield "grey16.tif", tiff([], 1, (16,), wide[..., 0].tobytes())
    yield "rgb16.tif", tiff([], 2, (16, 16, 16), wide.tobytes())


def pnms():
    rgb = scene().convert("RGB")
    grey = rgb.convert("L")
    yield "rgb.ppm", encoded(rgb, "PPM")
    yield "grey.pgm", encoded(grey, "PPM")
    yield "bits.pbm", encoded(grey.convert("1"), "PPM")
    numbers = " ".join(str(v) for v in np.asarray(grey).ravel())
    yield "text.pgm", f"P2\n# a comment\n{WIDTH} {HEIGHT}\n255\n{numbers}\n".encode()
    small = np.asarray(rgb) // 4
    yield "max63.ppm", f"P6 {WIDTH} {HEIGHT} 63\n".encode() + small.tobytes()
    yield "max100.pgm", f"P5 {WIDTH} {HEIGHT} 100\n".encode() + (np.asarray(grey).astype(int) * 100 // 255).astype(np.uint8).tobytes()
    wide = np.random.default_rng(7).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), dtype=np.uint16).astype(">u2")
    yield "wide.ppm", f"P6 {WIDTH} {HEIGHT} 65535\n".encode() + wide.tobytes()
    yield "wide.pgm", f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + wide[..., 0].tobytes()


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.glob("*"):
        old.unlink()
    lines = ["# Written by scripts/golden/kinds.py; the last three numbers: width, height and place in expected.rgb."]
    expected = bytearray()
    for source in (jpegs(), orientations(), tiffs(), pnms()):
        for name, data in source:
            (GOLDEN / name).write_bytes(data)
            picture = to_rgb(Image.open(GOLDEN / name))
            lines.append(f"decode {name} {picture.width} {picture.height} {len(expected)}")
            expected.extend(picture.tobytes())
    (GOLDEN / "expected.rgb").write_bytes(expected)
    (GOLDEN / "cases.txt").write_text("\n".join(lines) + "\n")
    print(sum(f.stat().st_size for f in GOLDEN.glob("*")), "bytes")


if __name__ == "__main__":
    main()
