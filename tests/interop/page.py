"""The tables of docs/brokers.md, from the result of a run: python -m tests.interop.page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import between, cell_of
from tests.interop.suite import CHECKS

HERE = Path(__file__).parent
RESULT = HERE / "result.json"
PAGE = HERE.parents[1] / "docs" / "brokers.md"
COMMAND = "make interop"
SIGNS = {"yes": "yes", "no": "**no**", "error": "**?**"}
TRIALS = {
    "keeps_up": "the gateway keeps up",
    "away": "the gateway is away: the queue is at the broker",
    "balanced": "the gateway keeps up, HAProxy in front",
}


def tables(result: Mapping[str, Any]) -> str:
    """Markdown: who was tried, what each need came to, what came through the gateway, and the words behind
    each no.
    """
    all_of = result["brokers"]
    tried = {name: one for name, one in all_of.items() if "checks" in one}
    lines = [
        f"Machine: {result['machine']}.",
        "",
        "| broker | version | from | set beside its defaults | run |",
    ]
    lines.append("|---|---|---|---|---|")
    for one in all_of.values():
        said = one.get("refuses") or one.get("missing")
        more = f"{one.get('configuration', '')}{'; **' + said + '**' if said else ''}"
        lines.append(
            f"| {one['title']} | {one.get('version', '')} | {one.get('package', '')} | {cell_of(more)} | {one['date']} |"
        )
    lines += ["", "| need | " + " | ".join(one["title"] for one in tried.values()) + " |"]
    lines.append("|---" * (len(tried) + 1) + "|")
    for check in CHECKS:
        cells = [_outcome(one["checks"].get(check.name)) for one in tried.values()]
        lines.append(f"| {check.title}{'' if check.required else ' (not needed)'} | {' | '.join(cells)} |")
    lines += ["", "What stands behind each **no**:", ""]
    for one in tried.values():
        for check in CHECKS:
            found = one["checks"].get(check.name)
            if found is not None and found["outcome"] != "yes":
                lines.append(f"- {one['title']}, {_lower(check.title)}: {cell_of(found['said'])}")
    lines += ["", *_through(tried)]
    return "\n".join(lines)


def _through(tried: Mapping[str, Any]) -> list[str]:
    lines = ["| broker | trial | messages acknowledged to the publisher | stored | lost | killed | seconds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in tried.values():
        for word, seen in one.get("through", {}).items():
            if "error" in seen:
                lines.append(
                    f"| {one['title']} | {TRIALS[word]} | | | **not ended**: {cell_of(seen['error'])} | | |"
                )
                continue
            lost = f"**{seen['lost']:,}**" if seen["lost"] else "0"
            lines.append(
                f"| {one['title']} | {TRIALS[word]} | {seen['acknowledged']:,} | {seen['stored']:,} | {lost} |"
                f" {seen['killed']} | {seen['seconds']:.0f} |"
            )
    return lines


def _outcome(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    said = found["said"]
    return SIGNS[found["outcome"]] if found["outcome"] != "yes" or said == "yes" else cell_of(said)


def _lower(text: str) -> str:
    return text if text[:2].isupper() else text[0].lower() + text[1:]


def rewritten(page: str, result: Mapping[str, Any]) -> str:
    """The page with the tables of this result."""
    return between(page, COMMAND, tables(result))


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(), json.loads(RESULT.read_text())))
