"""Puts what an experiment measured into the pages of the guide."""

import pathlib

GUIDE = pathlib.Path(__file__).resolve().parent.parent


LANGUAGES = (".md", ".zh.md")


def markdown(rows, language):
    """A table whose first row is its header. A cell that is a pair holds the text in English and in Chinese."""
    lines = [[cell[language] if isinstance(cell, tuple) else str(cell) for cell in row] for row in rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(page, name, rows):
    """Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in PAGE.md and PAGE.zh.md by the table of `rows`, and
    prints it in English."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    for language, suffix in enumerate(LANGUAGES):
        path = GUIDE / (page + suffix)
        before, rest = path.read_text(encoding="utf-8").split(start)
        after = rest.split(end)[1]
        path.write_text(f"{before}{start}\n\n{markdown(rows, language)}\n\n{end}{after}", encoding="utf-8")
    print(markdown(rows, 0))
