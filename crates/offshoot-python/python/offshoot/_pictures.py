"""Pictures, in whatever form they are given."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Union

# str and os.PathLike: a file. bytes, bytearray, memoryview: what is in a file. Else a picture of Pillow, or an array.
Picture = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, Any]

# What Pillow turns into RGB as offshoot does. Pictures of other modes go through a PNG, which offshoot reads: transparency is laid over the
# background of the model, and 16 bits become 8.
_PLAIN = ("RGB", "L", "1", "CMYK", "YCbCr")


def is_several(given: Any) -> bool:
    """Whether it is a list of pictures."""
    return isinstance(given, (list, tuple))


def native(picture: Picture, upright: bool) -> Any:
    """A picture as native code takes it: a path, bytes of a file, or an array [height, width, 3] of u8."""
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(picture, pillow.Image):
        return _of_pillow(picture, upright)
    if hasattr(picture, "__array_interface__") or hasattr(picture, "__array__"):
        return _of_array(picture)
    raise TypeError(
        f"a picture is a path, the bytes of a file, a picture of Pillow or an array [height, width, 3] of uint8, not {type(picture).__name__}"
    )


def _of_pillow(picture: Any, upright: bool) -> Any:
    import numpy
    from PIL import ImageOps

    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in _PLAIN and "transparency" not in picture.info:
        return numpy.ascontiguousarray(numpy.asarray(picture.convert("RGB")))
    if picture.mode == "PA":  # a PNG has no such mode
        picture = picture.convert("RGBA")
    file = io.BytesIO()
    # The rotation that EXIF asks for has been carried out, or is not wanted.
    picture.save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()


def _of_array(picture: Any) -> Any:
    import numpy

    array = numpy.asarray(picture)
    if array.dtype != numpy.uint8:
        raise TypeError(f"an array of pixels holds uint8 from 0 to 255, not {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise TypeError(f"an array of pixels is [height, width, 3], not {list(array.shape)}")
    # The array itself where it is one block of memory already.
    return numpy.ascontiguousarray(array)
