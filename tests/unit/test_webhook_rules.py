"""Schedule, verdicts, signatures and addresses."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from gateway.events.webhook_request import fault
from gateway.model.address import is_public
from gateway.model.webhook import WAITS, AttemptOutcome, Disabled, new_secret, signature, verdict, wait_after
from gateway.settings import WebhookSettings

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_waits_are_those_of_the_interface_and_outlast_three_days() -> None:
    written = [wait_after(tried, rand=0.0) for tried in range(len(WAITS))]
    hours = [0, 5 / 3600, 1 / 12, 0.5, 2, 5, 10, 14, 20, 24]
    assert [wait.total_seconds() / 3600 for wait in written if wait is not None] == pytest.approx(hours)
    for rand in (0.0, 0.999):
        waits = [wait_after(tried, rand=rand) for tried in range(len(WAITS))]
        assert sum((wait for wait in waits if wait is not None), timedelta()) > timedelta(hours=72)
        assert max(wait for wait in waits if wait is not None) < timedelta(days=2)
    assert wait_after(len(WAITS), rand=0.0) is None


def test_what_ends_it_for_an_endpoint() -> None:
    assert verdict(AttemptOutcome.GONE, failing_since=NOW, now=NOW) is Disabled.GONE
    assert verdict(AttemptOutcome.REFUSED, failing_since=NOW - timedelta(days=5), now=NOW) is Disabled.FAILING
    assert (
        verdict(AttemptOutcome.UNREACHABLE, failing_since=NOW - timedelta(days=5, seconds=-1), now=NOW)
        is None
    )


def test_signatures_are_those_of_the_standard() -> None:
    secret, other = new_secret(bytes(range(32))), new_secret(bytes(32))
    body, at = '{"ü":1}'.encode(), int(NOW.timestamp())
    assert signature([secret], message_id="m", timestamp=at, body=body) == Webhook(secret).sign(
        "m", NOW, body.decode()
    )
    assert signature([secret, other], message_id="m", timestamp=at, body=body).split(" ")[1] == Webhook(
        other
    ).sign("m", NOW, body.decode())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8",
        "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001::1",
        "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "4000::1", "", "localhost", "1.2.3", "0x7f.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.32.0.1",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://hooks.example/x?y=1", {}),
        ("https://hooks.example:8443/", {}),
        ("https://8.8.8.8/", {}),
        ("https://[2606:4700::1111]/", {}),
        ("http://hooks.example/", {"allow_http": True}),
        ("https://10.0.0.1/", {"allow_private_addresses": True}),
    ],
)
def test_what_can_be_an_endpoint(url: str, allowed: dict[str, bool]) -> None:
    assert fault(url, WebhookSettings(**allowed)) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "ftp://hooks.example/", "file:///etc/passwd", "hooks.example", "https:///x", "https://user@hooks.example/", "https://u:p@h.example/",
        "https://h.example/#x", "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1%25lo]/",
        "https://h.example:99999/", "https://h.exa mple/", "", "https://", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_what_cannot_be_an_endpoint(url: str) -> None:
    assert fault(url, WebhookSettings()) is not None


def test_the_example_of_the_documentation_verifies() -> None:
    [example] = re.findall(
        r"^```python\n(.*?)^```",
        (Path(__file__).parents[2] / "docs" / "events.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    scope: dict[str, Any] = {}
    exec(compile(example, "events.md", "exec"), scope)
    secret, known = new_secret(bytes(32)), set[str]()
    body, at = b'{"id":"m","type":"fieldgate.sync.completed","data":{}}', int(datetime.now(UTC).timestamp())
    headers = {
        "webhook-id": "m",
        "webhook-timestamp": str(at),
        "webhook-signature": signature([secret], message_id="m", timestamp=at, body=body),
    }
    assert scope["receive"](secret, headers, body, known) == 204
    assert known == {"m"}
    assert scope["receive"](new_secret(bytes(range(32))), headers, body, known) == 401
