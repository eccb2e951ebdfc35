"""The little Markdown that connectors write instructions in: paragraphs, numbered and bulleted lists, `code`,
**strong**. Never raw HTML.
"""

from __future__ import annotations

import re
from itertools import groupby

from markupsafe import Markup, escape

_ITEM = re.compile(r"(?:(?P<number>\d{1,3})[.)]|[-*])\s+(?P<text>.*)", re.DOTALL)


def instructions(text: str) -> Markup:
    """HTML of a text. Everything in it is escaped before anything is marked up."""
    blocks = [block for paragraph in re.split(r"\n\s*\n", text.strip()) for block in _lines(paragraph)]
    parts: list[Markup] = []
    for kind, group in groupby(blocks, key=_kind):
        if kind == "p":
            parts += [Markup("<p>{}</p>").format(inline(block)) for block in group]
        else:
            items = Markup("").join(Markup("<li>{}</li>").format(inline(_item(block))) for block in group)
            parts.append(Markup("<{0}>{1}</{0}>").format(kind, items))
    return Markup("\n").join(parts)


def _lines(paragraph: str) -> list[str]:
    """Lines of a paragraph, with those that continue one joined to it; an item of a list begins anew."""
    joined: list[str] = []
    for line in paragraph.splitlines():
        starts_item = _ITEM.match(line.lstrip()) is not None
        is_continued = bool(joined) and not starts_item and (line[:1].isspace() or _kind(joined[-1]) == "p")
        if is_continued:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line.strip())
    return [line for line in joined if line]


def _kind(block: str) -> str:
    match = _ITEM.match(block)
    if match is None:
        return "p"
    return "ol" if match["number"] else "ul"


def _item(block: str) -> str:
    match = _ITEM.match(block)
    return block if match is None else match["text"]


def inline(text: str) -> Markup:
    """HTML of one line."""
    marked = str(escape(text))
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", marked)
    marked = re.sub(r"\*\*([^*`<>]+)\*\*", r"<strong>\1</strong>", marked)
    return Markup(marked)  # noqa: S704 - escaped above; only our own two tags were added
