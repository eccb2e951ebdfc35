"""Which meter is suggested, and what a person sees of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.exchange import RemoteMeter
from gateway.model.preview import preview
from gateway.model.suggest import score, suggested


def meter(name: str, title: str = "", unit: str | None = None) -> RemoteMeter:
    return RemoteMeter(meter=name, title=title, unit=unit)


HOURS, TEMPERATURE = (
    meter("PUMP-1-H", "Pump 1 running hours", "HUR"),
    meter("PUMP-1-T", "Pump 1 temperature", "Cel"),
)


@pytest.mark.parametrize(
    ("device", "title", "metric", "meters", "found"),
    [
        ("pump-1", None, "runtime", [HOURS, TEMPERATURE], HOURS),
        ("pump-1", None, "temp", [HOURS, TEMPERATURE], TEMPERATURE),
        ("pump-01", None, "temp", [TEMPERATURE], TEMPERATURE),
        ("dev-7", "Pump 1", "temp", [meter("A", "Pump temperature 1")], None),  # the 7 is missed
        ("dev", "Pump 1", "temp", [meter("A", "Pump temperature 1")], meter("A", "Pump temperature 1")),
        ("dev", None, "temp", [TEMPERATURE], None),  # nothing of the device
        ("pump-1", None, "voltage", [HOURS, TEMPERATURE], None),  # nothing of the metric
        ("pump-1", None, "temp", [meter("PUMP-1", "Pump 1", "CEL")], meter("PUMP-1", "Pump 1", "CEL")),  # the unit says it
        ("pump-1", None, "temp", [meter("PUMP-1", "Pump 1", "bar")], None),
        ("pump-2", None, "temp", [TEMPERATURE], None),  # another pump
        ("pump-1", None, "temp", [meter("X", "Pump temperature"), meter("Y", "Pump temperature")], None),  # alike
        ("pump-1", None, "temp", [], None),
        ("pump-1", None, "temp", [meter("", "")], None),
        ("7", None, "temp", [meter("7", "temperature")], meter("7", "temperature")),
    ],
)  # fmt: skip
def test_the_meter_that_fits_by_name_and_unit(
    device: str, title: str | None, metric: str, meters: list[RemoteMeter], found: RemoteMeter | None
) -> None:
    assert suggested(device, title, metric, meters) == found
    assert suggested(device, title, metric, list(reversed(meters))) == found


def test_of_two_with_the_same_words_the_unit_decides_and_without_one_nobody() -> None:
    degrees, pressure = meter("PUMP-A", "temperature", "Cel"), meter("PUMP-A", "Temperature", "bar")
    assert suggested("pump-a", None, "temp", [pressure, degrees]) == degrees
    plain = [meter("pump", "temperature"), meter("PUMP", "temperature")]
    assert suggested("pump", None, "temp", plain) is None
    assert suggested("pump", None, "temp", plain[:1]) == plain[0]
    assert (
        suggested("pump", None, "temp", [meter("pump", "temperature x y")]) is not None
    )  # half of its words
    assert suggested("pump", None, "temp", [meter("pump", "temperature x y z")]) is None


def test_a_number_of_the_device_that_the_meter_lacks_counts_against_it() -> None:
    named = meter("pump", "temperature")
    assert score("pump", None, "temp", named) == 1.0
    assert score("pump-1", None, "temp", named) == pytest.approx(0.6)
    assert score("1", None, "temp", meter("1", "temperature")) == 1.0
    assert score("pump-1", None, "temp", meter("fan 1", "temperature")) == 0.0  # a number alone is anybody's


def test_the_better_one_is_first_among_several() -> None:
    good, best, poor = (
        meter("pump", "pump temperature a"),
        meter("pump", "temperature", "Cel"),
        meter("pump", "x y z temperature"),
    )
    assert suggested("pump", None, "temp", [poor, good, best, meter("other")]) == best
    assert suggested("pump", None, "temp", [good, good, best]) == best


@given(
    st.text(max_size=12),
    st.none() | st.text(max_size=12),
    st.text(max_size=8),
    st.text(max_size=12),
    st.text(max_size=12),
)
def test_a_score_is_bounded(device: str, title: str | None, metric: str, name: str, words: str) -> None:
    assert 0.0 <= score(device, title, metric, meter(name, words, "bar")) <= 1.15


@given(st.binary(max_size=100).filter(lambda data: not data.isascii()))
def test_rows_show_every_byte_in_its_place(data: bytes) -> None:
    seen = preview(b"\xff" + data, rows=True)
    assert seen.is_binary
    lines = seen.text.split("\n")
    assert bytes.fromhex("".join(line[8:55] for line in lines)) == b"\xff" + data
    assert [int(line[:6], 16) for line in lines] == list(range(0, len(data) + 1, 16))
    beside = "".join(line[57:] for line in lines)
    assert len(beside) == len(data) + 1
    for byte, character in zip(b"\xff" + data, beside, strict=True):
        assert character == (chr(byte) if 32 <= byte <= 126 else ".")
    assert preview(b"\xff" + data).text == (b"\xff" + data).hex(" ")


@pytest.mark.parametrize(
    ("data", "is_cut", "text"),
    [
        (b"", False, ""),
        ("Küche\n\t5 °C".encode(), False, "Küche\n\t5 °C"),
        (b"12345\x00", False, "12345\\x00"),
        (b"1234\x00", False, "1234\\x00"),
        (b"123\x00", False, None),  # more than a fifth of it
        ("12345\u200b".encode(), False, "12345\\u200b"),
        ("12345\U000e0001".encode(), False, "12345\\U000e0001"),
        ("12345ÿ\x85".encode(), False, "12345ÿ\\x85"),
        ("Kü".encode()[:-1], True, "K"),
        ("Kü".encode()[:-1], False, None),
        (b"\xff", True, None),
    ],
)
def test_text_is_shown_as_text_with_what_cannot_be_seen_escaped(
    data: bytes, is_cut: bool, text: str | None
) -> None:
    seen = preview(data, is_cut=is_cut)
    assert (seen.text, seen.is_binary) == ((data.hex(" "), True) if text is None else (text, False))
