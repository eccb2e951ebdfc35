"""What the site has beside docs/: README as its first page, the broker's page, the list of changes, and the
files that pages point at. Their links lead to where these are here.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "mosquitto/README.md": "mosquitto.md", "CHANGELOG.md": "changes.md"}
"""Of the repository, by their name here."""

_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_MADE: dict[str, Path] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and every file of the repository that one of all pages points at."""
    _MADE.clear()
    for source, name in PAGES.items():
        _MADE[name] = ROOT / source
        files.append(File.generated(config, name, content=_moved(name, (ROOT / source).read_text())))
    files.append(File.generated(config, "adr/index.md", content=_decisions()))
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for name, text in pages.items():
        for target, _ in _LINK.findall(_moved(name, text) if name not in _MADE else text):
            path = target[target.find("files/") + 6 :] if "files/" in target else ""
            if path and (ROOT / path).is_file() and files.get_file_from_path(f"files/{path}") is None:
                files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with its links as they are here."""
    return markdown if page.file.src_uri in _MADE else _moved(page.file.src_uri, markdown)


def _moved(name: str, text: str) -> str:
    """Links of a page that lies elsewhere in the repository, from where it lies here."""
    source = {here: there for there, here in PAGES.items()}.get(name, f"docs/{name}")
    up = "../" * name.count("/")

    def moved(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if "://" in target or target.startswith(("mailto:", "/")):
            return found[0]
        path = (ROOT / source).parent.joinpath(target).resolve()
        if not path.is_relative_to(ROOT):
            return found[0]
        there = str(path.relative_to(ROOT))
        if there == "docs/adr":
            return f"{up}adr/index.md"
        if there.startswith("docs/"):
            return f"{up}{there.removeprefix('docs/')}{anchor}"
        return f"{up}{PAGES[there] if there in PAGES else 'files/' + there}{anchor}"

    return _LINK.sub(moved, text)


def _decisions() -> str:
    """A list of them by number."""
    lines = ["# Decisions", ""]
    for path in sorted((ROOT / "docs" / "adr").glob("0*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join([*lines, ""])
