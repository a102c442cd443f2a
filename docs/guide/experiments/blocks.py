"""Puts what an experiment found into the guide's pages, in both languages."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).resolve().parents[1]


def fill(page, name, text):
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->` in PAGE.md and PAGE.zh.md."""
    for path in [GUIDE / f"{page}.md", GUIDE / f"{page}.zh.md"]:
        old = path.read_text()
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        new, count = pattern.subn(lambda m: m[1] + text + "\n" + m[2], old)
        assert count == 1, f"{path} has {count} blocks called {name}"
        path.write_text(new)
