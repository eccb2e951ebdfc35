"""`mosquitto/account`: accounts of a broker that runs, added, renewed and removed without touching others."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_mosquitto_files import (
    NOT_AUTHORIZED,
    ROOT,
    Broker,
    Client,
    broker,
    process,
    wait_for,
)

__all__ = ["broker", "process"]  # fixtures


def account(
    broker: Broker, *arguments: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(ROOT / "mosquitto" / "account"), str(broker.directory), *arguments],
        env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def lets_in(broker: Broker, user: str, password: str) -> bool:
    with Client(broker, user, f"{user}-1", password=password) as client:
        return client.codes[0] == 0


def read_again(
    process: subprocess.Popen[bytes], broker: Broker, user: str, password: str, *, known: bool
) -> None:
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: lets_in(broker, user, password) is known, "the broker reads its files again")


def test_a_customer_is_added_renewed_and_removed_while_the_broker_runs(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    before = (broker.directory / "acl").read_text()
    assert account(broker, "list").stdout.split() == ["gateway", "acme", "globex"]
    account(broker, "add", "initech", PASSWORD_initech="first")
    assert "is there already" in account(broker, "add", "initech", code=1).stderr
    read_again(process, broker, "initech", "first", known=True)
    with Client(broker, "initech", "initech-1", password="first") as device:
        assert device.publish("initech/devices/pump/telemetry") in (0, 0x10)
        assert device.publish("acme/devices/pump/telemetry") == NOT_AUTHORIZED
    account(broker, "password", "initech", PASSWORD_initech="second")
    read_again(process, broker, "initech", "second", known=True)
    assert not lets_in(broker, "initech", "first")
    account(broker, "remove", "initech")
    read_again(process, broker, "initech", "second", known=False)
    assert (broker.directory / "acl").read_text().strip() == before.strip()
    assert lets_in(broker, "acme", "acme-secret"), "others keep theirs"
    assert account(broker, "list").stdout.split() == ["gateway", "acme", "globex"]
    for name in ("acl", "passwords"):
        assert (broker.directory / name).stat().st_mode & 0o077 == 0


def test_one_whose_name_begins_like_another_is_not_touched(broker: Broker) -> None:
    account(broker, "add", "acme.2", PASSWORD_acme_2="x")
    lines = (broker.directory / "passwords").read_text().splitlines()
    account(broker, "remove", "acme")
    assert (broker.directory / "passwords").read_text().splitlines() == [
        line for line in lines if not line.startswith("acme:")
    ]
    acl = (broker.directory / "acl").read_text()
    assert "user acme.2\ntopic read" in acl and "user acme\n" not in acl and "user globex\ntopic read" in acl
    assert "user gateway\ntopic read +/devices/#" in acl


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("remove", "gateway"), "own account"),
        (("remove", "nobody"), "no account nobody"),
        (("password", "nobody"), "no account nobody"),
        (("add", "a+b"), "a name has"),
        (("add", "../x"), "a name has"),
        (("certificate", "pump-1", "soon"), "usage"),
        (("burn", "acme"), "usage"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    broker: Broker, arguments: tuple[str, ...], said: str
) -> None:
    before = {path.name: path.read_bytes() for path in broker.directory.iterdir() if path.is_file()}
    done = subprocess.run(
        [str(ROOT / "mosquitto" / "account"), str(broker.directory), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode in (1, 2) and said in done.stderr
    assert before == {path.name: path.read_bytes() for path in broker.directory.iterdir() if path.is_file()}


def test_a_certificate_of_a_device_is_of_the_brokers_authority(broker: Broker) -> None:
    account(broker, "certificate", "pump-1", "30")
    folder = broker.directory / "certificates"
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "pump-1.crt", folder / "pump-1.key")
    openssl = shutil.which("openssl")
    assert openssl
    verified = subprocess.run(
        [openssl, "verify", "-purpose", "sslclient", "-CAfile", str(folder / "ca.crt"), str(folder / "pump-1.crt")],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr
    assert "is there already" in account(broker, "certificate", "pump-1", code=1).stderr


def test_a_directory_without_accounts_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "mosquitto" / "account"), str(tmp_path), "list"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2 and "provision makes them" in done.stderr
