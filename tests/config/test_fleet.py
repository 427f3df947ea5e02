"""The directive Fleet: which database is taken, and what would be unsafe is refused when the file is loaded."""

from __future__ import annotations

import sys

import pytest
from support.configuration import Loader, Refuser

from cms.core.accounts import Fleet, Source

SECRET = "hunter2-Zq8Q~example"
ACCOUNT = "a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a])\n"
SAFE = "host=db1.example.org,db2.example.org dbname=cms user=relay7 sslmode=verify-full sslrootcert=/etc/cms/db-ca.pem"
TOKENS = "token_key=Credential('tokens')"


def given(dsn: str, more: str = TOKENS) -> str:
    return f"{ACCOUNT}Fleet({dsn!r}, {more})"


def test_none(load_text: Loader) -> None:
    """Without the directive nothing is shared."""
    assert load_text(ACCOUNT).fleet is None


def test_all_of_it(load_text: Loader) -> None:
    """Everything is kept as it was named: sources, and no secret."""
    sources = "password=File('/etc/db'), key=[Credential('new'), Credential('old')], token_key=Command(['pass', 'x'])"

    assert Fleet(
        SAFE,
        (Source("command", ("pass", "x")),),
        (Source("credential", ("new",)), Source("credential", ("old",))),
        Source("file", ("/etc/db",)),
        "mail",
        listen=False,
    ) == (load_text(given(SAFE, f"{sources}, schema='mail', listen=False")).fleet)


def test_a_host_that_serves_only(load_text: Loader) -> None:
    """Without key= there is nothing to redeem with: that makes a relay, and no other word could contradict it."""
    relay, redeemer = (load_text(given("dbname=cms", each)).fleet for each in (TOKENS, f"{TOKENS}, key=File('k')"))

    assert relay is not None
    assert redeemer is not None
    assert (True, False) == (relay.serves_only, redeemer.serves_only)
    assert (None, "cms", True) == (relay.password, relay.schema, relay.listen)


@pytest.mark.parametrize(
    "dsn",
    [
        "dbname=cms",
        "host=/run/postgresql dbname=cms",
        "host='/a folder/it\\'s here' port = 5433 dbname=cms",
        "host=127.0.0.1,::1,localhost",
        "host=db.example.org hostaddr=127.0.0.1",
        "host=db.example.org sslmode='verify-full' sslrootcert=system target_session_attrs=read-write",
        "postgresql:///cms?host=/run/postgresql",
        "postgresql://relay7@db1.example.org:5432,db2.example.org/cms?sslmode=verify-full",
        "postgres://relay7@[::1]:5432/cms",
        "postgresql://%2Frun%2Fpostgresql/cms",
    ],
)
def test_a_database(load_text: Loader, dsn: str) -> None:
    """A socket, a loopback address, or a host whose certificate is checked, in both of libpq's forms."""
    fleet = load_text(given(dsn)).fleet

    assert fleet is not None
    assert dsn == fleet.dsn


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        (f"dbname=cms password={SECRET}", "dsn= has a password in it"),
        (f"dbname=cms password = '{SECRET} x'", "dsn= has a password in it"),
        (f"postgresql://relay7:{SECRET}@/cms", "dsn= has a password in it"),
        (f"postgresql://relay7:{SECRET}/x@db.example.org/cms", "dsn= has a password in it"),
        (f"postgresql://relay7:12/{SECRET}@localhost/cms", "dsn= has a password in it"),
        (f"postgresql://relay7:x/{SECRET}@db.example.org/cms?sslmode=verify-full", "dsn= has a password in it"),
        (f"postgresql:///cms?password={SECRET}", "dsn= has a password in it"),
        (f"dbname=cms sslpassword={SECRET}", "dsn= has sslpassword= in it"),
        ("dbname=cms service=mail", "dsn= has service=, and cms reads no service file"),
        ("dbname=cms options=-cwork_mem=1", "dsn= has options=, which cms sets itself"),
        ("dbname=cms connect_timeout=60", "dsn= has connect_timeout=, which cms sets itself"),
        ("target_session_attrs=any", "dsn= has another target_session_attrs= than read-write"),
        ("dbname=cms sslrootcert=ca.pem", "dsn= has sslrootcert= with a relative path"),
        (f"dbname=cms pasword={SECRET}", "dsn= has a word that is no option of PostgreSQL's"),
        (SECRET, "dsn= is no connection string of PostgreSQL's"),
        (f"dbname='{SECRET}", "dsn= is no connection string of PostgreSQL's"),
    ],
)
def test_no_database(refuse: Refuser, dsn: str, message: str) -> None:
    """What holds a secret, or would be read otherwise than it looks, is refused where it is written and not quoted."""
    refusal = refuse(given(dsn))

    assert (3, f"Fleet: {message}") == (refusal.line, refusal.message)
    assert refusal.hint
    assert SECRET not in str(refusal)


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db.example.org",
        "host=db.example.org sslmode=require",
        "host=127.0.0.1,db.example.org sslmode=verify-ca",
        "host=localhost hostaddr=192.0.2.1",
        "host=127.0.0.1.db.example.org",
        "postgresql://127.0.0.1:5432,db.example.org/cms?sslmode=prefer",
    ],
)
def test_a_host_is_checked(refuse: Refuser, dsn: str) -> None:
    """Refresh tokens go to no host whose certificate is not checked."""
    refusal = refuse(given(dsn))

    assert "Fleet: dsn= does not make sure that " in refusal.message
    assert "sslmode=verify-full" in refusal.hint


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (f"token_key='{SECRET}'", "token_key= takes no literal secret: name the place to read it from"),
        (f"{TOKENS}, key='keyring'", "key= takes no literal secret: name the place to read it from"),
        (f"{TOKENS}, password='{SECRET}'", "password= takes no literal secret: name the place to read it from"),
        (f"{TOKENS}, key=[]", "key= is an empty list"),
        (f"{TOKENS}, listen=1", "listen= is True or False, not a value of type int"),
        (f"{TOKENS}, schema='Mail; drop'", "schema= is a name of small letters, digits and underscores"),
        (f"{TOKENS}, schema='pg_mail'", "schema= is a name of small letters, digits and underscores"),
        (
            f"{TOKENS}, key=[Credential('keys'), Credential('tokens')]",
            "key= and token_key= are one key, and a host that only serves tokens would have the key of sign-ins",
        ),
        ("key=File('k')", "missing a required argument: 'token_key'"),
    ],
)
def test_no_keys(refuse: Refuser, more: str, message: str) -> None:
    """A key is a source, and the one of tokens is another than that of sign-ins."""
    refusal = refuse(given("dbname=cms", more))

    assert f"Fleet: {message}" == refusal.message
    assert SECRET not in str(refusal)


def test_twice(refuse: Refuser) -> None:
    """A host is in one fleet."""
    refusal = refuse(f"{given('dbname=cms')}\nFleet('dbname=other', {TOKENS})")

    assert (4, "Fleet: a second Fleet; the first is in line 3") == (refusal.line, refusal.message)


def test_without_the_library(refuse: Refuser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found when the file is loaded, with the command that installs it: cms's own pip, or the machine's if it has none."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    refusal = refuse(given("dbname=cms"))

    assert "Fleet: cms speaks to PostgreSQL with the library psycopg, which is not installed" == refusal.message
    assert "extra `fleet`" in refusal.hint
    assert f"`{sys.executable} -m pip install 'psycopg[binary]" in refusal.hint

    monkeypatch.setitem(sys.modules, "pip", None)
    refusal = refuse(given("dbname=cms"))

    assert f"`python3 -m pip --python {sys.executable} install 'psycopg[binary]" in refusal.hint
