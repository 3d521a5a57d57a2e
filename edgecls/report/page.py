"""What our HTML pages share: one file that needs nothing else, light and dark, on screen and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from edgecls.data.sources import Source
from edgecls.errors import ImageError
from edgecls.files import write_text

THUMBNAIL_PX = 160

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #d9dee4; --paper: #fff; --good: #1a7f4b;
  --bad: #c0392b; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #39414b; --paper: #15191e;
  --good: #4cc38a; --bad: #ff7b6b; --bar: #6ea0e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.5rem 4rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .8rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.fact { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.fact b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.bar { display: inline-block; height: .7rem; background: var(--bar); border-radius: .2rem; vertical-align: middle; }
td.bars { text-align: left; width: 50%; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem; }
.groups { display: flex; flex-wrap: wrap; gap: 1rem; } .group { display: flex; gap: .5rem; padding: .5rem;
  border: 1px solid var(--line); border-radius: .4rem; } .group figure { width: 9rem; }
figure { margin: 0; font-size: .85rem; overflow-wrap: anywhere; } figure img { width: 100%; border-radius: .3rem; }
.wide { overflow-x: auto; }
.chart { display: block; max-width: 100%; margin: 0 0 1.5rem; background: #fff; border-radius: .3rem; }
.figure svg { width: 100%; height: auto; display: block; }
@media print { figure, tr, .fact { break-inside: avoid; } }
"""


def write(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of HTML parts."""
    body = "\n".join(parts)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
    )


def facts(items: Iterable[tuple[str, str, str]]) -> str:
    """Figures in a row of cards: name, value, remark."""
    cells = (
        f'<div class="fact"><span class="soft">{escape(name)}</span><b>{escape(value)}</b>'
        f'<span class="soft">{escape(remark)}</span></div>'
        for name, value, remark in items
    )
    return f'<div class="facts">{"".join(cells)}</div>'


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, or a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def printable(path: str) -> str:
    """A file's name that HTML can hold, whatever bytes it is made of."""
    return path.encode("utf-8", "backslashreplace").decode()


def chart(png: bytes) -> str:
    """A picture that was drawn for the page."""
    return f'<img alt="" class="chart" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def thumbnail(source: Source, key: str) -> str:
    """An image as a small picture inside the page; nothing where it cannot be read any more."""
    from edgecls.imaging.opencv import cv2

    try:
        image = source.read(key)
    except ImageError:
        return ""
    scale = THUMBNAIL_PX / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    _, jpeg = cv2.imencode(
        ".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}">'
