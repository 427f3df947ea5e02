"""Reads offlineimap's file: an INI file with interpolation, whose `..._eval` options are Python expressions. Pure.

An expression may call the functions of `pythonfile`, which is read too.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator

from cms.cli.doctor.mail_tools import python_code
from cms.cli.doctor.mail_tools.found import Command, Fault, Files, Login, Machine, Place, Use
from cms.cli.doctor.mail_tools.ini import Ini, mistake

_LOGIN = Login("IMAP", "token")
# The option for a token, and the one for a password.
_OPTIONS = ("oauth2_access_token_eval", "remotepasseval")


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "offlineimap")
    for path in machine.first(f"{machine.config_home}/offlineimap/config", "~/.offlineimaprc"):
        text = files.text(path)
        try:
            ini = Ini("offlineimap", path, text, interpolates=True)
            yield from _uses(ini, files)
        except configparser.Error as error:
            if "cms-oauth" in text:
                cause = f"offlineimap refuses the file: {mistake(error)}"
                yield Fault(Place("offlineimap", path), "does not start", cause, "correct it")
    yield from files.unread


def _uses(ini: Ini, files: Files) -> Iterator[Use]:
    path = files.machine.expand(ini.value("general", "pythonfile"))
    code = files.text(path, ini.place("general", "pythonfile")) if path else ""
    for section in ini.sections():
        if section.startswith("Repository "):
            for option in _OPTIONS:
                expression, place = ini.value(section, option), ini.place(section, option)
                found = python_code.asks(expression, place, files.machine, _LOGIN)
                if expression:
                    here = Place("offlineimap", path, 1)
                    found += python_code.asks(code, here, files.machine, _LOGIN, caller=expression)
                yield from found
                if any(isinstance(each, Command) for each in found):
                    yield from _login(ini, section, option)
                    # A password is not used beside a token: `%(remotepasseval)s` gives both.
                    break


def _login(ini: Ini, section: str, option: str) -> Iterator[Fault]:
    if option == _OPTIONS[1]:
        cause = f"{option} gives a password, and offlineimap logs in with it as with a password"
        step = f"give the same expression as {_OPTIONS[0]}"
        yield Fault(ini.place(section, option), "does not log in with its token", cause, step)
        return
    mechanisms = [each.strip().upper() for each in ini.value(section, "auth_mechanisms", "XOAUTH2").split(",")]
    if "XOAUTH2" not in mechanisms:
        cause = f"auth_mechanisms is {', '.join(mechanisms)}, without XOAUTH2"
        place = ini.place(section, "auth_mechanisms")
        yield Fault(place, "does not log in with its token", cause, "write: auth_mechanisms = XOAUTH2")
