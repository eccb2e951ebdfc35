"""The documentation as a site: every page has its place in it, and what is built leads nowhere that there is not
and loads nothing from elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MKDOCS = ROOT / "build" / "docs" / "bin" / "mkdocs"
MADE = {"index.md", "mosquitto.md", "changes.md", "adr/index.md"}
"""By the hook."""


def places(nav: Any) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else places(value)


def test_every_page_has_a_place_and_every_place_a_page() -> None:
    listed = [*places(yaml.safe_load((ROOT / "website" / "mkdocs.yml").read_text())["nav"])]
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    decisions = {page for page in pages if page.startswith("adr/")}
    assert len(listed) == len(set(listed)) and set(listed) == (pages - decisions) | MADE


@pytest.mark.skipif(not MKDOCS.exists(), reason="`make docs` installs what the site is made with")
def test_what_is_built_leads_to_what_there_is_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--quiet", "-f", ROOT / "website" / "mkdocs.yml", "-d", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) > 60
    for path in built:
        text = path.read_text()
        assert not re.search(r'<(script|link|img)[^>]*(src|href)="https?:', text), path
        assert '<a href="' in text and "](" not in re.sub(r"<(code|pre).*?</\1>", "", text, flags=re.DOTALL)
        if path.name == "404.html":  # its links are of whichever address was asked for
            continue
        for target in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', text):
            assert (path.parent / target).exists(), (path, target)
