"""Filters that may be absent: each statement that has one is asked with or without it, and never by `or`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store import queries
from gateway.store.queries import filtered, names, sql

STORE = Path(queries.__file__).parent
OPTIONAL = re.compile(r"\$\d+(?:::[a-z]+(?:\[\])?)? is null or\b")
NO_LIST = {
    "record_apply": "of rows that were found by their keys",
    "stream_claim": "what is due is found by its time",
    "telemetry_write": "a fact of the whole statement",
    "telemetry_add": "a fact of the whole statement",
    "device_list": "asked by `filtered` under a name of two",
    "device_list_silent": "asked by `filtered` under a name of two",
    "message_list": "asked by `filtered` under a name of two",
    "message_list_customer": "asked by `filtered` under a name of two",
    "message_ids": "asked by `filtered` under a name of two",
    "message_ids_customer": "asked by `filtered` under a name of two",
}


def body(name: str) -> str:
    return re.sub(r"--.*", "", sql(name))


def asked_by(function: str) -> set[str]:
    """Statements that the store names in calls of the function."""
    return {
        node.args[0].value
        for path in STORE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
        and isinstance(node.args[0], ast.Constant)
    }


def test_who_has_such_a_filter_is_asked_with_or_without_it() -> None:
    having = {name for name in names() if OPTIONAL.search(body(name))}
    assert having - NO_LIST.keys() == asked_by("filtered") and NO_LIST.keys() <= having
    assert not (having - NO_LIST.keys()) & asked_by("sql")
    dynamic = "\n".join(path.read_text() for path in STORE.glob("*.py"))
    assert not re.search(r"sql\(name\), \*(?:asked|filters)", dynamic)


@pytest.mark.parametrize("name", sorted(asked_by("filtered")))
@given(st.data())
def test_a_filter_is_there_where_it_is_given(name: str, data: st.DataObject) -> None:
    plain = body(name)
    count = max(int(number) for number in re.findall(r"\$(\d+)", plain))
    arguments = data.draw(st.lists(st.sampled_from([None, "x"]), min_size=count, max_size=count))
    text, *rest = filtered(name, *arguments)
    text = re.sub(r"--.*", "", text)
    assert rest == arguments and not OPTIONAL.search(text)
    assert text.count("(") == text.count(")")
    assert set(re.findall(r"\$\d+", text)) == set(re.findall(r"\$\d+", plain))
    for number in re.findall(r"\(\$(\d+)::[a-z]+(?:\[\])? is null or ", plain):
        gone = re.search(rf"\(\${number}::[a-z]+(?:\[\])? is null\)", text)
        assert (gone is not None) == (arguments[int(number) - 1] is None)
