"""The directive accounts_from: accounts as lines of a CSV file, or as tables of a TOML file.

What is read is the arguments of the directive for an account, one account after the other: of Office365_Account, or, with
provider=, of GMail_Account or OAuth2_Account. A fault names the line of that file.
"""

from __future__ import annotations

import csv
import inspect
import io
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from cms.config import arguments, settings, trust
from cms.config.arguments import Given, Mistake, Place, nearest
from cms.config.draft import AccountHandle, Draft
from cms.config.ignored import Ignored
from cms.config.oauth2 import gmail_account, oauth2_account
from cms.config.office365 import office365_account
from cms_oauth.providers import GOOGLE, MICROSOFT, OWN

# A line, and the arguments of the account that begins there.
Row: TypeAlias = tuple[int, Mapping[str, Given]]

# How the directive for an account is called.
Directive: TypeAlias = Callable[..., AccountHandle | Ignored]


def _arguments(directive: Directive) -> tuple[str, ...]:
    return tuple(inspect.signature(directive).parameters)[1:]


# All that a file may say, of any account. The name of a provider decides which of it an account takes.
ARGUMENTS = tuple(
    dict.fromkeys((*_arguments(office365_account), *_arguments(gmail_account), *_arguments(oauth2_account)))
)
# The arguments that can be given for all accounts of a file at once.
SHARED = tuple(each for each in ARGUMENTS if each != "user")

_FLAGS = ("use_default_registration", "preflight")
_LISTS = ("protocols", "scopes")
_NUMBERS = ("refresh_before", "lifetime", "max_mailboxes")
_SECRETS = ("client_secret", "certificate", "certificate_password", "client_assertion", "client", "service_account")

# No number has more. int() raises ValueError for one of thousands.
_DIGITS = 18

# Spreadsheets write another separator where a comma is the decimal point. No argument's name has one of these.
_SEPARATORS = ",;\t"

# The line with which an account begins in TOML.
_TABLE = re.compile(r"""^[ \t]*\[\[[ \t]*["']?account["']?[ \t]*\]\]""", re.MULTILINE)
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def accounts_from(draft: Draft, path: Given, **shared: Given) -> list[AccountHandle]:
    """accounts_from: the accounts in a CSV or TOML file. `shared` are arguments for all of them; the file's own win."""
    file = arguments.file_path("path", path, draft.folder)
    read = _READERS.get(Path(file).suffix.lower())
    if read is None:
        raise Mistake("path= is a file whose name ends with .csv or .toml", "The ending says how it is written")
    text = _text(draft, draft.reads(file, "the list of accounts"))
    found = [_account(draft, Place(file, line), given, shared) for line, given in read(file, text)]
    if not found:
        raise Mistake(f"there is no account in {file}")
    return found


def _text(draft: Draft, file: str) -> str:
    try:
        content = trust.read(file, draft.system, trust.ACCOUNTS)
    except trust.Untrusted as untrusted:
        raise Mistake(f"{file} is not read: {untrusted.message}", untrusted.hint) from None
    except OSError as error:
        raise Mistake(f"{file} cannot be read: {error.strerror}") from None
    try:
        # Spreadsheets begin a file with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = Place(file, content.count(b"\n", 0, error.start) + 1)
        raise Mistake("this is not UTF-8", "Save the file as UTF-8", place) from None


def _account(draft: Draft, place: Place, given: Mapping[str, Given], shared: Mapping[str, Given]) -> AccountHandle:
    with draft.reading(place):
        if "user" not in given:
            raise Mistake("user= is missing", "Each account of a list has one")
        found = {**shared, **{name: _value(draft, name, each) for name, each in given.items()}}
        directive, found = _directive(found)
        known = _arguments(directive)
        for name in found:
            if name not in known:
                raise Mistake(f"{name}= is not an argument of such an account", nearest(name, known))
        account = directive(draft, **found)
        if isinstance(account, Ignored):
            raise Mistake("this account needs client= or service_account=", "Such as client=file:google-client.json")
        return account


def _directive(given: dict[str, Given]) -> tuple[Directive, dict[str, Given]]:
    """Return the directive that an account's arguments are for, and those that it takes."""
    provider = given.get("provider")
    rest = {name: each for name, each in given.items() if name != "provider"}
    if provider == GOOGLE and not {"client_id", "client_secret"} & given.keys():
        return gmail_account, rest
    if provider == OWN:
        # As `cms status --json` calls such a server, whose address is another argument.
        return oauth2_account, rest
    if provider in (None, MICROSOFT) and not {"issuer", "token_endpoint"} & given.keys():
        return office365_account, rest
    return oauth2_account, given


def _value(draft: Draft, name: str, given: Given) -> Given:
    """Return the value of an argument as the configuration itself would give it."""
    if name not in ARGUMENTS:
        raise Mistake(f"there is no argument {name}=", nearest(name, ARGUMENTS))
    if name in _SECRETS:
        return _source(draft, name, given)
    if name == "protocols" and isinstance(given, list):
        return [draft.protocols.get(each, each) if isinstance(each, str) else each for each in given]
    return given


def _source(draft: Draft, name: str, given: Given) -> Given:
    kind, _, rest = arguments.text(name, given).partition(":")
    if kind == "file":
        return settings.file(draft, rest)
    if kind == "credential":
        return settings.credential(rest)
    raise Mistake(
        f"{name}= takes no literal secret: name the place to read it from",
        f"Write file:PATH or credential:NAME, or give accounts_from {name}=Command([...]) for all its accounts",
    )


def _csv(file: str, text: str) -> Iterator[Row]:
    first = text.lstrip().partition("\n")[0]
    separator = next((each for each in _SEPARATORS if each in first), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] = []
    while True:
        # A field in quotes may have line breaks in it: the account begins where the last one has ended.
        place = Place(file, rows.line_num + 1)
        try:
            fields = [each.strip() for each in next(rows)]
        except StopIteration:
            return
        except csv.Error as error:
            raise Mistake(f"this is not CSV: {error}", place=place) from None
        if not any(fields):
            continue
        if not columns:
            columns = _columns(fields, place)
        elif len(fields) != len(columns):
            message = f"the number of fields is {len(fields)}, and that of the columns {len(columns)}"
            raise Mistake(message, "An argument that is not given is an empty field", place)
        else:
            yield place.line, {name: _typed(name, each) for name, each in zip(columns, fields, strict=True) if each}


def _columns(fields: list[str], place: Place) -> list[str]:
    """Return the names of the columns. A field is not quoted: without a first line of names it may be anything."""
    for number, name in enumerate(fields, 1):
        if name not in ARGUMENTS:
            message = f"the name of column {number} is no argument of an account"
            raise Mistake(message, f"Columns are named in the first line. {nearest(name, ARGUMENTS)}", place)
    if "user" not in fields or len(set(fields)) < len(fields):
        message = "a column is there twice" if "user" in fields else "there is no column user"
        raise Mistake(message, "The first line names each column once, such as user,sign_in_as,protocols", place)
    return fields


def _typed(name: str, field: str) -> Given:
    """Return a field of CSV, which is text, as a value of the kind that the argument takes, if it can be one."""
    if name in _FLAGS:
        return {"true": True, "false": False}.get(field.lower(), field)
    if name in _LISTS:
        return field.split()
    if name in _NUMBERS and field.isdecimal() and len(field) <= _DIGITS:
        return int(field)
    return field


def _toml(file: str, text: str) -> Iterator[Row]:
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        told = str(error)
        where = _TOML_PLACE.search(told)
        line = int(where[1]) if where and where[1] else text.count("\n") + 1
        raise Mistake(f"this is not TOML: {_TOML_PLACE.sub('', told)}", place=Place(file, line)) from None
    except ValueError as error:
        # A number of thousands of digits.
        raise Mistake(f"this is not TOML: {str(error).partition(':')[0]}", place=Place(file, 1)) from None
    except RecursionError:
        # tomllib's parser recurses for each bracket.
        raise Mistake("this is not TOML: it is nested too deeply", place=Place(file, 1)) from None
    lines = [text.count("\n", 0, found.start()) + 1 for found in _TABLE.finditer(text)]
    tables = body.pop("account", [])
    # tomllib does not say where a table is. If each has a line of its own, these lines are in the same order.
    if body or not isinstance(tables, list) or len(tables) != len(lines):
        raise Mistake(
            "a list of accounts has one table [[account]] for each, and nothing else",
            "Arguments for all accounts: accounts_from(PATH, tenant=...)",
            Place(file, _line_of(next(iter(body), "account"), text)),
        )
    yield from zip(lines, tables, strict=True)


def _line_of(key: str, text: str) -> int:
    found = re.search(rf"""^[ \t\["']*{re.escape(key)}""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else 1


_READERS: Mapping[str, Callable[[str, str], Iterator[Row]]] = {".csv": _csv, ".toml": _toml}
