"""The directive Fleet: the PostgreSQL database in which several hosts share their sign-ins."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from urllib.parse import parse_qsl, unquote

from cms.config import arguments
from cms.config.arguments import Given, Mistake, nearest, optional
from cms.config.draft import Draft
from cms.core.accounts import Fleet, Source
from cms_oauth.moves import Command

# PostgreSQL's names have 63 bytes. A name in lower case means the same with quotes and without.
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)

# A word and what it is set to, as libpq reads it: in quotation marks or up to the next space.
_OPTION = re.compile(
    r"\s*(?P<name>[^\s=]+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<plain>(?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_URLS = ("postgresql://", "postgres://")

# Options of libpq's that hold a secret.
_SECRET = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")

# Options of libpq's that cms sets: a host that does not answer must cost seconds only, and some pass no pooler.
_SET = (
    *(
        "connect_timeout",
        "tcp_user_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
    ),
    *("application_name", "fallback_application_name", "client_encoding", "gssencmode", "options"),
)

# Options of libpq's that name a file. No shell reads them, and the worker's current folder may be any.
_FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir")

# The others of libpq's that a configuration may set ("Connection Strings" in PostgreSQL's manual).
_FREE = (
    *("host", "hostaddr", "port", "dbname", "user", "require_auth", "channel_binding", "load_balance_hosts"),
    *("sslmode", "sslnegotiation", "sslcertmode", "sslsni", "requirepeer"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "min_protocol_version", "max_protocol_version"),
    *("krbsrvname", "gsslib", "gssdelegation", "target_session_attrs"),
)

LIBRARY = "psycopg"


def fleet(
    draft: Draft,
    dsn: Given,
    *,
    token_key: Given,
    key: Given = None,
    password: Given = None,
    schema: Given = "cms",
    listen: Given = True,
) -> None:
    """Fleet: the database in which hosts share their sign-ins, and where the keys are that encrypt them."""
    draft.once("Fleet")
    _check_library()
    connection = checked(arguments.text("dsn", dsn))
    token_keys = _sources("token_key", token_key)
    keys = optional(key, lambda given: _sources("key", given)) or ()
    if set(keys) & set(token_keys):
        raise Mistake(
            "key= and token_key= are one key, and a host that only serves tokens would have the key of sign-ins",
            "`cms fleet init` makes two key files",
        )
    name = arguments.text("schema", schema)
    if not _SCHEMA.fullmatch(name) or name.startswith("pg_"):
        raise Mistake("schema= is a name of small letters, digits and underscores", 'Such as schema="cms"')
    secret = optional(password, lambda given: arguments.secret("password", given))
    draft.fleet = Fleet(connection, token_keys, keys, secret, name, arguments.flag("listen", listen))


def _check_library() -> None:
    """Raise Mistake without the library for PostgreSQL. It is found, not loaded: only the grant worker does that."""
    if find_spec(LIBRARY) is None:
        pip = [sys.executable, "-m", "pip"]
        if find_spec("pip") is None:
            # As in the environment of the Debian package.
            pip = ["python3", "-m", "pip", "--python", sys.executable]
        install = Command((*pip, "install", "psycopg[binary]>=3.2.1"))
        raise Mistake(
            f"cms speaks to PostgreSQL with the library {LIBRARY}, which is not installed",
            f"It comes with the extra `fleet`, or by `{install}`",
        )


def _sources(name: str, given: Given) -> tuple[Source, ...]:
    """Return one source or a list of them: the first encrypts, and the others still decrypt."""
    members = given if isinstance(given, list | tuple) else [given]
    found = tuple(dict.fromkeys(arguments.secret(name, each) for each in members))
    if not found:
        raise Mistake(f"{name}= is an empty list")
    return found


def checked(dsn: str) -> str:
    """Return a connection string, if it is safe to keep and to use. Raises Mistake, which never quotes the string."""
    options = _options_of_url(dsn) if dsn.startswith(_URLS) else _options(dsn)
    for name in options:
        _check_option(name)
    for name in _FILES:
        path = options.get(name, "/")
        if not path.startswith("/") and (name, path) != ("sslrootcert", "system"):
            raise Mistake(f"dsn= has {name}= with a relative path", "Write the whole path: libpq expands none")
    if options.get("target_session_attrs", "read-write") != "read-write":
        raise Mistake(
            "dsn= has another target_session_attrs= than read-write",
            "Leave it out: cms writes, and takes the one server of host= that accepts writes",
        )
    if options.get("sslmode") != "verify-full" and (far := [each for each in _places(options) if not _is_local(each)]):
        raise Mistake(
            f"dsn= does not make sure that {far[0]} is the database's host: refresh tokens go there",
            "Add sslmode=verify-full, and sslrootcert= with the authority that signed its certificate",
        )
    return dsn


def _options(dsn: str) -> Mapping[str, str]:
    """Return the words of a connection string (libpq, "Keyword/Value Connection Strings")."""
    found, at = dict[str, str](), 0
    while dsn[at:].strip():
        match = _OPTION.match(dsn, at)
        if not match:
            raise Mistake(
                "dsn= is no connection string of PostgreSQL's",
                'Such as Fleet("host=db.example.org dbname=cms user=relay1 sslmode=verify-full", ...)',
            )
        value = match["quoted"] if match["quoted"] is not None else match["plain"]
        found[match["name"]] = _ESCAPED.sub(r"\1", value)
        at = match.end()
    return found


def _options_of_url(dsn: str) -> Mapping[str, str]:
    """Return the same of a URL (libpq, "Connection URIs")."""
    rest, _, query = dsn.partition("://")[2].partition("?")
    place, _, database = rest.partition("/")
    who, _, hosts = place.rpartition("@")
    user, colon, _ = who.partition(":")
    # Behind a password with a "/" that is not escaped, the "@" stands where the database should be.
    if colon or "@" in database:
        _check_option("password")
    found = {"user": user, "dbname": database}
    found["host"] = ",".join(re.sub(r":\d*$", "", each).strip("[]") for each in hosts.split(","))
    given = {name: unquote(value) for name, value in found.items() if value}
    return given | dict(parse_qsl(query, keep_blank_values=True))


def _check_option(name: str) -> None:
    if name in _SECRET:
        raise Mistake(
            f"dsn= has {'a password' if name == 'password' else f'{name}='} in it",
            'A password is given as a source, never as text: Fleet("...", password=File("PATH"), ...)',
        )
    if name == "service":
        raise Mistake("dsn= has service=, and cms reads no service file", "Write what is there into the string")
    if name in _SET:
        raise Mistake(f"dsn= has {name}=, which cms sets itself", "Leave it out")
    if name not in (*_FREE, *_FILES):
        raise Mistake("dsn= has a word that is no option of PostgreSQL's", nearest(name, (*_FREE, *_FILES)))


def _places(options: Mapping[str, str]) -> Iterator[str]:
    """Yield where each of the servers is: an address, a host's name, or a socket's folder, "" for the usual one."""
    hosts, addresses = (options.get(name, "").split(",") for name in ("host", "hostaddr"))
    for number in range(max(len(hosts), len(addresses))):
        names = [each[number].strip() for each in (addresses, hosts) if number < len(each)]
        yield next(filter(None, names), "")


def _is_local(place: str) -> bool:
    """True for a socket or a loopback address: no other machine sees the connection."""
    if not place or place.startswith(("/", "@")) or place.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(place).is_loopback
    except ValueError:
        return False
