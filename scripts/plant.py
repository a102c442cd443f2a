#!/usr/bin/env python3
"""Copies a folder of pictures and hides faults in the copy, for the tests of `offshoot data check`. Needs Pillow.

    plant.py SOURCE OUT SEED    moves 20 pictures to another class, encodes 10 again under new names, half of them resized

Prints one JSON line: {"flipped": [path], "duplicates": [[path, path]]}, paths below OUT.
"""

import json
import random
import shutil
import sys
from pathlib import Path

from PIL import Image

FLIPS, COPIES = 20, 10


def flat(path):
    """The picture as RGB, what is transparent white."""
    picture = Image.open(path).convert("RGBA")
    over = Image.new("RGB", picture.size, (255, 255, 255))
    over.paste(picture, mask=picture.getchannel("A"))
    return over


def main(source, out, seed):
    source, out, chance = Path(source), Path(out), random.Random(int(seed))
    shutil.copytree(source, out)
    classes = sorted(folder.name for folder in out.iterdir())
    pictures = sorted(path for path in out.rglob("*") if path.is_file())
    chosen = chance.sample(pictures, FLIPS + COPIES)
    flipped = []
    for path in chosen[:FLIPS]:
        other = chance.choice([name for name in classes if name != path.parent.name])
        target = out / other / path.name
        path.rename(target)
        flipped.append(str(target.relative_to(out)))
    duplicates = []
    for place, path in enumerate(chosen[FLIPS:]):
        picture = flat(path)
        if place % 2:
            part = chance.uniform(0.5, 0.9)
            picture = picture.resize([max(1, round(side * part)) for side in picture.size], Image.BICUBIC)
        target = path.with_name(f"copy_{place}.jpg")
        picture.save(target, "JPEG", quality=chance.choice([30, 50, 75, 90]))
        duplicates.append([str(path.relative_to(out)), str(target.relative_to(out))])
    print(json.dumps({"flipped": flipped, "duplicates": duplicates}))


if __name__ == "__main__":
    main(*sys.argv[1:])
