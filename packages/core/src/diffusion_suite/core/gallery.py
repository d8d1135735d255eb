"""One page of pictures and tables, as ``diffusion-suite demo`` leaves it; a browser is all it needs."""

from __future__ import annotations

import html
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffusion_suite.core._version import __version__
from diffusion_suite.core.files import atomic_path

WIDE = 2.4
"""Width over height from which a picture takes a row of its own."""


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Attributes:
        path: Image file in or below the folder of the page.
        caption: What it shows, in a sentence or less.
    """

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        title: Its heading.
        text: What is shown; blank lines part paragraphs.
        table: Rows of one table, columns in the order in which the rows first name them.
        pictures: Images, in order.
        failed: Whether the section tells a failure.
    """

    title: str
    text: str = ""
    table: Sequence[Mapping[str, Any]] = field(default_factory=list)
    pictures: Sequence[Picture] = field(default_factory=list)
    failed: bool = False


def write_page(folder: Path, title: str, sections: Sequence[Section], subtitle: str = "") -> Path:
    """Write ``folder/index.html`` and return its path; pictures are linked beside it."""
    links = "".join(f'<a href="#s{i}">{html.escape(part.title)}</a>' for i, part in enumerate(sections))
    body = "\n".join(_section(folder, part, f"s{i}") for i, part in enumerate(sections))
    style = resources.files(__package__).joinpath("gallery.css").read_text(encoding="utf-8")
    navigation = f"<nav>{links}</nav>" if len(sections) > 1 else ""
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p>{navigation}</header>
<main>
{body}
</main>
<footer>diffusion-suite {__version__}</footer>
</body>
</html>
"""
    path = folder / "index.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(folder: Path, section: Section, anchor: str) -> str:
    text = "".join(
        f"<p>{html.escape(part.strip())}</p>" for part in section.text.split("\n\n") if part.strip()
    )
    figures = "".join(_figure(folder, picture) for picture in section.pictures)
    kind = "pictures one" if len(section.pictures) == 1 else "pictures"
    pictures = f'<div class="{kind}">{figures}</div>' if figures else ""
    state = ' class="failed"' if section.failed else ""
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return f'<section id="{anchor}"{state}>{heading}{text}{_table(section.table)}{pictures}</section>'


def _figure(folder: Path, picture: Picture) -> str:
    caption = html.escape(picture.caption)
    link = quote(os.path.relpath(picture.path, folder).replace(os.sep, "/"))
    image = f'<a href="{link}"><img src="{link}" alt="{caption}"></a>'
    kind = ' class="wide"' if _is_wide(picture.path) else ""
    return f"<figure{kind}>{image}<figcaption>{caption}</figcaption></figure>"


def _is_wide(path: Path) -> bool:
    """Whether the header of a PNG file tells a picture that is far wider than high."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(b"\x89PNG"):
        return False
    width, height = struct.unpack(">II", head[16:])
    return bool(width > WIDE * height)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
