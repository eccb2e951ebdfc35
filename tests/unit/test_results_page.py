"""docs/results.md says what the committed results say, and those have what was promised."""

from __future__ import annotations

import copy

import pytest

from benchmarks.beside.consumers import ABSENT, PEERS, TEXTS, Ours
from benchmarks.page import between
from benchmarks.results import PAGE, RESULTS, committed, rewritten

TRIALS = ("backlog", "live", "kills", "restart")


def test_the_page_is_made_of_the_results() -> None:
    page, results = PAGE.read_text(), committed()
    assert page == rewritten(page, results), "python -m benchmarks.results"
    other = copy.deepcopy(results)
    other["peers"]["consumers"]["fieldgate"]["kills"]["lost"] = 7
    assert "**7**" in rewritten(page, other) and "**7**" not in page


def test_ours_and_most_peers_were_put_through_every_trial() -> None:
    peers = committed()["peers"]
    assert set(peers["consumers"]) == {"fieldgate", *PEERS} and set(peers["absent"]) == set(ABSENT)
    whole = {name for name, one in peers["consumers"].items() if all(trial in one for trial in TRIALS)}
    assert "fieldgate" in whole and len(whole) >= 5  # what was not run says so in its row
    ours = peers["consumers"]["fieldgate"]
    assert ours["kills"]["kills"] == 20
    assert all(ours[trial]["lost"] == ours[trial]["duplicated"] == 0 for trial in ("kills", "restart"))


def test_every_configuration_is_a_text_of_the_repository() -> None:
    named = {*Ours.texts, *(text for peer in PEERS.values() for text in peer.texts)}
    assert named == {path.name for path in TEXTS.iterdir() if path.is_file()}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_result_names_no_path_of_the_machine_it_was_made_on(path) -> None:  # type: ignore[no-untyped-def]
    text = path.read_text()
    assert not any(word in text for word in ("/tmp/", "/root", "/work", "/home"))


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no <!-- made by `x`: begin -->"):
        between("text", "x", "made")
