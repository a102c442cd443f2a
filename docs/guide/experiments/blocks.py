"""Puts what an experiment found into the guide's pages, in both languages."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).resolve().parents[1]


def fill(page, name, text):
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->` in PAGE.md and PAGE.zh.md by `text`, which may be a
    pair: in English and in Chinese."""
    texts = text if isinstance(text, tuple) else (text, text)
    for path, new_text in zip([GUIDE / f"{page}.md", GUIDE / f"{page}.zh.md"], texts):
        old = path.read_text(encoding="utf-8")
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        new, count = pattern.subn(lambda m: m[1] + new_text + "\n" + m[2], old)
        assert count == 1, f"{path} has {count} blocks called {name}"
        path.write_text(new, encoding="utf-8")


def tables(rows):
    """A Markdown table in English and one in Chinese. The first row is the header; a cell that is a pair holds both texts."""
    return tuple(table(rows, language) for language in range(2))


def table(rows, language):
    lines = [[cell[language] if isinstance(cell, tuple) else str(cell) for cell in row] for row in rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
