"""Numbers on their way in: what is stored is what was sent, or the message is refused."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.model.errors import DecodeError
from gateway.payloads.formats import json, scalar
from gateway.payloads.formats.values import Measurement

digits = st.text("0123456789", min_size=1, max_size=25)
integers = st.integers(0, 10**25).map(str)
exponents = st.one_of(st.just(""), st.integers(-420, 420).map(lambda size: f"e{size}"))
literals = st.one_of(
    st.builds(
        lambda sign, whole, size: f"{sign}{whole}{size}", st.sampled_from(["", "-"]), integers, exponents
    ),
    st.builds(
        lambda sign, whole, part, size: f"{sign}{whole}.{part}{size}",
        st.sampled_from(["", "-"]),
        integers,
        digits,
        exponents,
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: f"{value:.17g}"),
    st.integers(2**53 - 3, 2**53 + 3).map(str),
)


def digits_of(literal: str) -> int:
    return len(literal.lower().partition("e")[0].lstrip("-").replace(".", "").lstrip("0"))


def check(literal: str, made: list[Measurement] | None, reason: str) -> None:
    """Independent of how the product decides: by decimal arithmetic over what was sent."""
    sent = Decimal(literal)
    whole = literal.lstrip("-").isdigit()
    if made is not None:
        held = made[0][1]["m"]
        assert math.isfinite(held)  # type: ignore[arg-type]
        with decimal.localcontext() as context:
            context.prec = max(1, digits_of(literal))
            assert context.create_decimal(repr(held)) == sent or context.create_decimal(Decimal(held)) == sent
        assert not whole or abs(sent) <= 2**53
    elif reason == "not_finite":
        assert abs(sent) > Decimal("1.797693134862315e308")
    else:
        assert reason == "not_exact"
        assert abs(sent) > 2**53 if whole else digits_of(literal) > 15 or abs(sent) < Decimal("1e-290")


def taken(parse: object, payload: bytes) -> tuple[list[Measurement] | None, str]:
    try:
        return parse(payload, "m"), ""  # type: ignore[operator]
    except DecodeError as error:
        return None, error.reason


@given(literal=literals)
@example(literal="9007199254740993")
@example(literal="89882390000123456789")
@example(literal="1708703790535904509")
@example(literal="0.1000000000000000055511151231257827")
@example(literal="5e-324")
@settings(max_examples=1000)
def test_a_number_is_stored_as_it_was_sent_or_refused(literal: str) -> None:
    check(literal, *taken(json.parse, b'{"x":{"y":1},"m":%s}' % literal.encode()))
    check(literal, *taken(scalar.parse, literal.encode()))


@given(
    literal=literals,
    left=st.sampled_from([b'{"m":', b'[{"ts":1.25,"m":', b'{"ts":1769851800000001999,"metrics":{"m":']),
)
@settings(max_examples=300)
def test_wherever_it_stands(literal: str, left: bytes) -> None:
    right = b"}" * left.count(b"{") + b"]" * left.count(b"[")
    check(literal, *taken(json.parse, left + literal.encode() + right))


@given(text=st.text(max_size=40) | literals | st.sampled_from(["nan", "-inf", "1e400"]))
def test_a_text_is_never_taken_for_a_number(text: str) -> None:
    if "\0" not in text:
        assert json.parse(orjson.dumps({"m": text, "n": 1.5})) == [(None, {"m": text, "n": 1.5})]


@given(
    noise=st.binary(max_size=80) | st.text('{}[]":,0123456789.eE+-naNifty\\ ', max_size=60).map(str.encode)
)
@settings(max_examples=500)
def test_no_bytes_end_the_decoder(noise: bytes) -> None:
    made, reason = taken(json.parse, noise)
    assert made or reason
    assert taken(scalar.parse, noise) != (None, "")


Written = list[tuple[str, "Written | str"]]
objects: st.SearchStrategy[Written] = st.recursive(
    st.lists(st.tuples(st.sampled_from(["a", "b", "ä", "a b", 'a":']), literals), min_size=1, max_size=4),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(["a", "b", "metrics"]), literals | inner), min_size=1, max_size=4
    ),
    max_leaves=8,
)


def written(pairs: Written, comma: str, colon: str) -> str:
    items = (
        f"{orjson.dumps(key).decode()}{colon}"
        f"{value if isinstance(value, str) else written(value, comma, colon)}"
        for key, value in pairs
    )
    return f"{{{comma.join(items)}}}"


def is_each_once(pairs: Written) -> bool:
    keys = [key for key, _ in pairs]
    inner = [value for _, value in pairs if not isinstance(value, str)]
    return len(keys) == len(set(keys)) and all(map(is_each_once, inner))


@given(pairs=objects)
@example(pairs=[("a", "1"), ("a", "1")])
@example(pairs=[("a", [("b", "1"), ("b", "2")]), ("b", "20.10")])
@settings(max_examples=500)
def test_however_it_is_written_it_is_read_the_same_and_a_key_that_comes_twice_is_refused(
    pairs: Written,
) -> None:
    payloads = [
        written(pairs, comma, colon).encode() for comma in (",", ", ") for colon in (":", ": ", " : ")
    ]
    compact, *others = [taken(json.parse, payload) for payload in payloads]
    assert all(repr(other) == repr(compact) for other in others)
    assert is_each_once(pairs) or compact[0] is None


def test_long_digits_cost_no_more_than_their_length() -> None:
    """Each of these has a part that a careless pattern looks at once for each of its characters."""
    for middle in (b"0" * 1_000_000 + b".x", b"1.2" * 300_000, b"e-000" * 200_000, b'\\"nan' * 150_000):
        for payload in (b'{"m":"' + middle, b'{"m":1e-400,"b":"' + middle + b'"}'):
            assert taken(json.parse, payload)[0] is None
