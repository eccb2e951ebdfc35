"""Forms, drafts and suggestions of the steps that connect a system, over every system and over what anybody
may type.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from connectors.registry import SYSTEMS
from gateway.http.dashboard import meter_preview
from gateway.http.dashboard.settings_form import setting_fields, setting_values
from gateway.http.services import catalogue
from gateway.ingest.explain import window_of
from gateway.meter_settings import MeterSettings
from gateway.model.calendar import PERIODS
from gateway.model.credential import TokenGrant
from gateway.model.draft import Draft, from_document, to_document
from gateway.model.exchange import RemoteMeter
from gateway.model.sample import MICROSECOND
from gateway.model.suggest import suggested
from gateway.model.verification import Readable, Verdict, Verification

CATALOGUE = catalogue(SYSTEMS)
words = st.text(max_size=20)


def sample(system: str) -> dict[str, Any]:
    """The settings of the system's sample, as they would be stored."""
    text = files(f"connectors.{system}").joinpath("sample.yaml").read_text()
    settings: dict[str, Any] = yaml.safe_load(text)["connections"][0].get("settings", {})
    return {name: value for name, value in settings.items() if not name.endswith("_file")}


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_the_sample_goes_through_the_form_as_it_is(system: str) -> None:
    """What a form shows and sends back unchanged means the same; every setting has a field."""
    held, schema = sample(system), CATALOGUE[system].settings_schema
    fields = setting_fields(schema, held)
    values, faults = setting_values(fields, {field.name: field.value for field in fields})
    assert not faults and {field.name for field in fields} >= held.keys()
    model = SYSTEMS[system].settings_model
    assert model.model_validate(values) == model.model_validate(held)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_a_form_that_nobody_touched_sets_nothing(system: str) -> None:
    fields = setting_fields(CATALOGUE[system].settings_schema, {})
    values, faults = setting_values(fields, {field.name: field.value for field in fields})
    assert values == {} and faults.keys() == {field.name for field in fields if field.is_required}
    assert all(field.hint for field in fields), [field.name for field in fields if not field.hint]


@given(st.sampled_from(sorted(SYSTEMS)), st.dictionaries(st.integers(0, 40), st.text(max_size=60)))
def test_whatever_is_typed_is_a_value_or_a_fault(system: str, typed: dict[int, str]) -> None:
    fields = setting_fields(CATALOGUE[system].settings_schema, {})
    given_ = {fields[place].name: text for place, text in typed.items() if place < len(fields)}
    values, faults = setting_values(fields, given_)
    assert not values.keys() & faults.keys()
    orjson.dumps(values)
    again = setting_fields(CATALOGUE[system].settings_schema, {}, typed=given_)
    assert {field.name: field.value for field in again if field.name in given_} == given_


meters = st.builds(RemoteMeter, meter=words, title=words, unit=st.none() | words)
verifications = st.builds(
    Verification,
    verdict=st.sampled_from(Verdict),
    detail=words,
    account=st.none() | words,
    records=st.lists(st.builds(Readable, stream=words, title=words, detail=words), max_size=3).map(tuple),
    meters=st.none() | st.lists(meters, max_size=3).map(tuple),
    meters_detail=words,
    request_id=st.none() | words,
    retry_after=st.none() | st.floats(0, 1e6),
)
drafts = st.builds(
    Draft,
    back=words,
    customer=words,
    system=words,
    hosting=st.sampled_from(["cloud", "on_premises"]),
    id=words,
    title=words,
    settings=st.dictionaries(words, st.none() | st.integers(0, 9) | words, max_size=3),
    fixed=st.lists(words, max_size=2),
    credential_type=words,
    credentials=st.dictionaries(words, words, max_size=3),
    grant=st.none()
    | st.builds(
        TokenGrant,
        access_token=words,
        refresh_token=st.none() | words,
        expires_in_seconds=st.none() | st.floats(0, 1e6),
    ),
    granted_at=st.floats(0, 1e9),
    verified=st.none() | verifications,
    tries=st.integers(0, 20),
    meters=st.lists(st.dictionaries(words, st.none() | words, max_size=3), max_size=2),
)


@given(drafts)
def test_a_draft_is_what_it_was_after_it_was_kept(draft: Draft) -> None:
    assert from_document(orjson.loads(orjson.dumps(to_document(draft)))) == draft


@given(drafts, st.floats(0, 1e6))
def test_other_credentials_or_settings_are_verified_anew_and_tokens_age(draft: Draft, age: float) -> None:
    other = draft.with_credentials("api_key", {"api_key": "k"})
    assert other.verified is None and other.grant is None
    assert draft.with_settings(settings={}).verified is None
    aged = draft.aged_grant(draft.granted_at + age)
    if draft.grant is not None and draft.grant.expires_in_seconds is not None:
        assert aged is not None and aged.expires_in_seconds is not None
        left = draft.grant.expires_in_seconds - age
        assert abs(aged.expires_in_seconds - left) <= 1e-3 * max(1.0, abs(left))
    assert repr(draft) == repr(replace(draft, credentials={})), "a secret is shown"


PLANT = [
    RemoteMeter(meter="M-100", title="Pump 1 temperature", unit="CEL"),
    RemoteMeter(meter="M-101", title="Pump 2 temperature", unit="CEL"),
    RemoteMeter(meter="M-102", title="Pump 1 running hours", unit="H"),
    RemoteMeter(meter="M-103", title="Compressor pressure", unit="BAR"),
]


@pytest.mark.parametrize(
    ("device", "metric", "meter"),
    [
        ("pump-1", "temperature", "M-100"),
        ("PUMP_02", "temp", "M-101"),
        ("pump-1", "run_hours", "M-102"),
        ("compressor", "press", "M-103"),
        ("pump-3", "temperature", None),
        ("pump-1", "humidity", None),
        ("fan-1", "temperature", None),
        ("", "", None),
    ],
)
def test_a_meter_is_suggested_where_name_and_unit_fit(device: str, metric: str, meter: str | None) -> None:
    found = suggested(device, None, metric, PLANT)
    assert (None if found is None else found.meter) == meter


@given(words, st.none() | words, words, st.lists(meters, max_size=5))
def test_a_suggestion_is_one_of_the_meters_and_never_one_of_two_alike(
    device: str, title: str | None, metric: str, listed: list[RemoteMeter]
) -> None:
    found = suggested(device, title, metric, listed)
    assert found is None or found in listed
    assert suggested(device, title, metric, [*listed, *listed]) is None or not listed


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    every=st.sampled_from(["1s", "1m", "7m", "15m", "1h", "90m", "1d", "day", "week", "month", "shift"]),
    zone=st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "UTC"]),
)
def test_a_preview_shows_whole_windows_that_are_over(now: datetime, every: str, zone: str) -> None:
    given: dict[str, object] = {"zone": zone} if every in PERIODS else {}
    given |= {"shifts": ["06:00", "14:00", "22:00"]} if every == "shift" else {}
    rule = MeterSettings.model_validate({"device": "d", "metric": "t", "meter": "m", "every": every, **given})
    since, until, count = meter_preview._windows(rule.window, now)
    assert until <= now and 1 <= count <= 60
    ends = [window_of(since, rule.window)[0], window_of(until - MICROSECOND, rule.window)[1]]
    assert ends == [since, until]
    if isinstance(rule.window, timedelta):
        assert until - since == count * rule.window
    else:
        assert count == 1 and window_of(since, rule.window) == (since, until)
