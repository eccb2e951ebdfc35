"""Addresses of databases: what is taken, what is refused, and that no part of one is ever repeated."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.dsn import Dsn, check_own_dsn, parse_dsn

GOOD = "postgresql://role:hidden-word@db.example:5433/data"


def test_every_part_is_said() -> None:
    assert parse_dsn(GOOD + "?sslmode=verify-full&application_name=f%20g") == Dsn(
        host="db.example",
        port=5433,
        user="role",
        password="hidden-word",
        database="data",
        sslmode="verify-full",
        application_name="f g",
    )


def test_what_is_left_out_is_said_all_the_same() -> None:
    made = parse_dsn("postgres://role:x@[::1]")
    assert (made.host, made.port, made.database, made.sslmode) == ("::1", 5432, "role", "prefer")


@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Cf", "Cn", "Co", "Zs", "Zl", "Zp"]),
        min_size=1,
        max_size=30,
    )
)
def test_any_password_can_be_percent_encoded(password: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in password.encode())
    made = parse_dsn(f"postgresql://role:{encoded}@h/d")
    assert made.password == password
    assert "password" not in repr(made)


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://role:hid#den@h/d", "`#` as %23"),
        ("postgresql://role:hid/den@h/d", "`/` as %2F"),
        ("postgresql://role:hid?den@h/d", "`?` as %3F"),
        ("postgresql://role:hid[den@h/d", "`[` as %5B"),
        ("postgresql://role:hid@den@h/d", "`@` as %40"),
        ("postgresql://role:p@ss@h/d", "`@` as %40"),
        ("postgresql://role:hid den@h/d", "` ` as %20"),
        ("jdbc:postgresql://h/d?user=role&password=hidden", "JDBC"),
        ("mysql://role:hidden@h/d", "something else than PostgreSQL"),
        ("host=h user=role password=hidden dbname=d", "keyword=value"),
        ("hidden", "expected postgresql://"),
        ("", "expected postgresql://"),
        ("postgresql://role:hidden@h:99999/d", "port"),
        ("postgresql://role:hidden@h:0/d", "port"),
        ("postgresql://role:hidden@h:port/d", "port"),
        ("postgresql://role:hid\nden@h/d", "character 22"),
        ("postgresql://role:hid\u00a0den@h/d", "character 22"),
        ("postgresql://role:hid%00den@h/d", "cannot be printed"),
        ("postgresql://role:hid%FFden@h/d", "not UTF-8"),
        ("postgresql://role:hidden@h/d#frag", "%23"),
        ("postgresql://role:hidden@h/d/e", "%2F"),
    ],
)
def test_what_can_never_work_is_refused_for_all_and_not_repeated(dsn: str, said: str) -> None:
    for check in (parse_dsn, check_own_dsn):
        with pytest.raises(ValueError) as caught:
            check(dsn)
        assert said in str(caught.value)
        assert not any(part in str(caught.value) for part in ("hid", "den", "p@ss"))


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql:///d", "user and password are needed"),
        ("postgresql://h/d", "user and password are needed"),
        ("postgresql://role@h/d", "user and password are needed"),
        ("postgresql://:hidden@h/d", "user and password are needed"),
        ("postgresql://role:hidden@/d", "a host is needed"),
        ("postgresql://role:hidden@%2Fvar%2Frun/d", "a host is needed"),
        ("postgresql://role:hidden@a,b/d", "one host"),
        ("postgresql://role:hidden@/d?host=/var/run", "host cannot be set here"),
        ("postgresql://role:hidden@h/d?passfile=x", "passfile cannot be set here"),
        ("postgresql://role:hidden@h/d?service=x", "service cannot be set here"),
        ("postgresql://role:hidden@h/d?sslrootcert=x", "sslrootcert cannot be set here"),
        ("postgresql://role:hidden@h/d?hidden=x", "a parameter behind `?` cannot be set here"),
        ("postgresql://role:hidden@h/d?sslmode=parse", "sslmode must be"),
        ("postgresql://role:hidden@h/d?sslmode=allow", "sslmode must be"),
        ("postgresql://role:hidden@h/d?sslmode", "name=value"),
        ("postgresql://role:hidden@h/d?sslmode=require&sslmode=disable", "each once"),
    ],
)  # fmt: skip
def test_a_connection_leaves_nothing_to_its_surroundings(dsn: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_dsn(dsn)
    assert said in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///fieldgate",
        "postgresql://fieldgate@localhost/fieldgate",
        "postgresql://a:b@h1:5432,h2:5433/d?target_session_attrs=read-write",
        "postgresql://postgres@/fieldgate?host=/var/run/postgresql",
        "postgresql://postgres@%2Fvar%2Frun/d",
        GOOD + "?sslmode=allow&statement_timeout=5s",
        "postgresql://role:50%off@h/d",
    ],
)
def test_the_operators_own_address_may_be_what_the_driver_takes(dsn: str) -> None:
    assert check_own_dsn(dsn) == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        GOOD + "?sslmode=parse",
        GOOD + "?port=x",
        "postgresql://role:a@h:x/d",
        "postgresql://role:a@db1,db2/d?target_session_attrs=standby",
        "postgresql://role:a@/d?host=db1,db2,db3&port=1,2",
    ],
)
def test_and_what_it_would_choke_on_is_refused(dsn: str) -> None:
    with pytest.raises(ValueError):
        check_own_dsn(dsn)


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(string.ascii_letters + "/:@?#[]%=&,. \\\x00é", max_size=60).map("postgresql://".__add__),
    )
)
def test_any_text_is_an_address_or_a_fault_that_shows_no_piece_of_it(text: str) -> None:
    for check in (parse_dsn, check_own_dsn):
        try:
            check(text)
        except ValueError as error:
            words = set("".join(letter if letter.isalnum() else " " for letter in text).split())
            shown = str(error).replace("postgresql://role:password@host:5432/database", "")
            assert not [word for word in words if len(word) > 14 and word in shown]
