"""Reads the files of msmtp and mpop, which have one syntax (msmtp(1), CONFIGURATION FILES). Pure.

A line is a command and its argument, which may be in double quotes: there is no escape, no continuation, and a `#` is a
comment only at the beginning of a line. `passwordeval` goes to a shell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import Fault, Files, Login, Machine, Place, Setting, Use, numbered

# What `auth` must say for a token. `auth on` never chooses one of these.
_MECHANISMS = {"xoauth2", "oauthbearer"}


@dataclass
class _Account:
    """What `defaults` said when an account began, and what it and the accounts that it names say themselves."""

    name: str
    defaults: Mapping[str, Setting]
    own: dict[str, Setting] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Setting]:
        return {**self.defaults, **self.own}


def uses_of_msmtp(machine: Machine) -> Iterator[Use]:
    system = machine.first("/etc/msmtprc")
    user = machine.first("~/.msmtprc", f"{machine.config_home}/msmtp/config")
    yield from _uses(machine, "msmtp", "SMTP", [*system, *user])


def uses_of_mpop(machine: Machine) -> Iterator[Use]:
    user = machine.first("~/.mpoprc", f"{machine.config_home}/mpop/config")
    yield from _uses(machine, "mpop", "POP", user)


def _uses(machine: Machine, tool: str, protocol: str, paths: list[str]) -> Iterator[Use]:
    files = Files(machine, tool)
    for path in paths:
        for account in _accounts(files, path):
            yield from _of_account(account, machine, Login(protocol, "token"))
    yield from files.unread


def _accounts(files: Files, path: str) -> list[_Account]:
    """Return the accounts of a file. Settings before the first one belong to the account `default`."""
    defaults: dict[str, Setting] = {}
    accounts = [_Account("default", {})]
    into = accounts[0].own
    for number, line in numbered(files.text(path)):
        command, _, argument = line.strip().replace("\t", " ", 1).partition(" ")
        value, place = _unquoted(argument.strip()), Place(files.tool, path, number)
        if command == "defaults":
            into = defaults
        elif command == "account":
            name, _, parents = value.partition(":")
            account = _Account(name.strip(), dict(defaults))
            for parent in map(str.strip, parents.split(",")):
                account.own |= next((each.own for each in accounts if each.name == parent), {})
            accounts.append(account)
            into = account.own
        elif command == "eval":
            files.not_followed(place, "this line is the output of a command, which the doctor does not run")
        elif command and not command.startswith("#"):
            into[command] = Setting(value, place)
    return accounts


def _unquoted(argument: str) -> str:
    quoted = len(argument) > 1 and argument[0] == argument[-1] == '"'
    return argument[1:-1] if quoted else argument


def _of_account(account: _Account, machine: Machine, login: Login) -> Iterator[Use]:
    settings = account.settings
    command = settings.get("passwordeval")
    asked = shell.asks(command.value, command.place, machine, login) if command else []
    if not command or not asked:
        return
    yield from asked
    auth = settings.get("auth", Setting("off", command.place))
    whose = f"the account {account.name}"
    if auth.value not in _MECHANISMS:
        said = f"auth {auth.value}".strip() if "auth" in settings else "no auth"
        cause = f"{whose} has `{said}`, which never sends a token" if "auth" in settings else f"{whose} has no `auth`"
        yield Fault(auth.place, "does not log in with its token", cause, "write: auth xoauth2")
    if "password" in settings:
        cause = f"{whose} has a `password` too, so the command is not run"
        yield Fault(settings["password"].place, "does not ask for a token", cause, "remove that line")
    if not settings.get("user", auth).value or "user" not in settings:
        yield Fault(command.place, "cannot log in", f"{whose} has no `user`", "name the mailbox: user ADDRESS")
