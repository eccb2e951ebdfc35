"""What of one answer is taken, and which cursor is stored."""

from __future__ import annotations

import pytest

from gateway.model.errors import PageTooLarge, Unavailable
from gateway.model.inbound import MAX_CURSOR, MAX_PAGE, check_cursor, check_page


@pytest.mark.parametrize(
    ("page", "most"), [(0, MAX_PAGE), (100, MAX_PAGE), (1000, MAX_PAGE), (1001, 10_010), (5000, 50_000)]
)
def test_a_page_holds_ten_times_what_the_stream_asks_for_at_most(page: int, most: int) -> None:
    check_page(most, "orders", page=page)
    with pytest.raises(PageTooLarge, match=f"orders.*{most + 1:,}.*{most:,}"):
        check_page(most + 1, "orders", page=page)


def test_without_a_page_the_bound_is_that_of_all_answers() -> None:
    check_page(MAX_PAGE, "orders")
    with pytest.raises(PageTooLarge):
        check_page(MAX_PAGE + 1, "orders")


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_cursor_is_stored_whole_or_not_at_all(letter: str) -> None:
    check_cursor(letter * MAX_CURSOR, "orders")
    with pytest.raises(Unavailable, match=f"orders.*{MAX_CURSOR + 1:,}.*{MAX_CURSOR:,}"):
        check_cursor(letter * (MAX_CURSOR + 1), "orders")


@pytest.mark.parametrize("cursor", ["a\0b", "\ud800"])
def test_a_cursor_that_no_column_holds_is_refused(cursor: str) -> None:
    with pytest.raises(Unavailable, match="orders"):
        check_cursor(cursor, "orders")
