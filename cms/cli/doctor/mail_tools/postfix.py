"""Reads Postfix's main.cf and master.cf (postconf(5), master(5)). Pure.

A line that begins with white space continues the one before it, comments and empty lines left out. `$name` is replaced when a
value is used. `-o` in master.cf replaces a parameter for one service.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from cms.cli.doctor.mail_tools.found import Fault, Files, Machine, Place, Setting, Table, Use, numbered

_MAPS = "smtp_sasl_password_maps"
_SOCKET = re.compile(r"(proxy:)?socketmap:unix:([^\s,:{}]+):")
_NAME = re.compile(r"\$(?:\{(\w+)\}|\((\w+)\)|(\w+))")
_OVERRIDE = re.compile(r"-o\s+(?:\{\s*(\w+)\s*=\s*([^}]*?)\s*\}|(\w+)=(\S*))")

# Parameters may name each other.
_DEEPEST = 20

# The columns of a service in master.cf: name, type, private, unprivileged, chroot, wakeup, limit, command.
_CHROOT, _COMMAND = 4, 7


_Settings: TypeAlias = dict[str, Setting]


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "Postfix")
    main = _settings(files, "/etc/postfix")
    yield from _of_instance(files, "/etc/postfix", main)
    for folder in re.split(r"[\s,]+", _value(main, "multi_instance_directories")):
        if folder:
            yield from _of_instance(files, folder, _settings(files, folder))
    yield from files.unread


def _settings(files: Files, folder: str) -> _Settings:
    return {
        name.strip(): Setting(value.strip(), place)
        for path in files.machine.first(f"{folder}/main.cf")
        for line, place in _logical_lines(files, path)
        for name, _, value in [line.partition("=")]
    }


def _of_instance(files: Files, folder: str, main: _Settings) -> Iterator[Use]:
    services = list(_services(files, f"{folder}/master.cf")) if main else []
    yield from _tables(main, chroot=any(program == "smtp" and chrooted for program, chrooted, _ in services))
    for program, chrooted, own in services:
        if program == "smtp" and any(name.startswith("smtp_sasl_") for name in own):
            yield from _tables({**main, **own}, chroot=chrooted)


def _logical_lines(files: Files, path: str) -> Iterator[tuple[str, Place]]:
    begun, place = "", Place("Postfix", path)
    for number, line in numbered(files.text(path)):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and begun:
            begun += line
            continue
        if begun:
            yield begun, place
        begun, place = line, Place("Postfix", path, number)
    if begun:
        yield begun, place


def _services(files: Files, path: str) -> Iterator[tuple[str, bool, _Settings]]:
    """Yield the command of each service, whether it runs in the chroot, and the parameters that it replaces."""
    for line, place in (each for found in files.machine.first(path) for each in _logical_lines(files, found)):
        words = line.split()
        if len(words) > _COMMAND:
            own = {found[1] or found[3]: found[2] or found[4] or "" for found in _OVERRIDE.finditer(line)}
            settings = {name: Setting(value, place) for name, value in own.items()}
            yield words[_COMMAND], words[_CHROOT] == "y", settings


def _tables(settings: Mapping[str, Setting], *, chroot: bool) -> Iterator[Use]:
    maps = settings.get(_MAPS)
    if maps is None:
        return
    queue = _value(settings, "queue_directory", "/var/spool/postfix")
    for proxy, socket in dict.fromkeys(_SOCKET.findall(_expanded(maps.value, settings))):
        faults = list(_login(settings, maps.place))
        inside = None
        if chroot and not proxy and socket.startswith("/"):
            inside = Table(maps.place, f"{queue}{socket}", tuple(faults))
            cause = "smtp runs in a chroot, where it does not see the socket"
            step = f"write `proxy:` before `socketmap:` in {_MAPS}"
            faults.append(Fault(maps.place, "may not reach cms", cause, step, certain=False))
        # Postfix's programs run in its queue's folder, in the chroot too.
        yield Table(maps.place, posixpath.join(queue, socket), tuple(faults), inside)


def _value(settings: Mapping[str, Setting], name: str, default: str = "") -> str:
    return _expanded(settings[name].value if name in settings else default, settings)


def _expanded(value: str, settings: Mapping[str, Setting], depth: int = 0) -> str:
    def replaced(found: re.Match[str]) -> str:
        known = settings.get(found[1] or found[2] or found[3])
        return _expanded(known.value, settings, depth + 1) if known and depth < _DEEPEST else ""

    return _NAME.sub(replaced, value)


def _login(settings: Mapping[str, Setting], place: Place) -> Iterator[Fault]:
    def where(name: str) -> Place:
        return settings[name].place if name in settings else place

    if _value(settings, "smtp_sasl_auth_enable", "no").lower() != "yes":
        cause = "smtp_sasl_auth_enable is not yes"
        yield Fault(where("smtp_sasl_auth_enable"), "does not log in", cause, "write: smtp_sasl_auth_enable = yes")
    mechanisms = _value(settings, "smtp_sasl_mechanism_filter").lower()
    if mechanisms and "xoauth2" not in re.split(r"[\s,]+", mechanisms):
        cause = f"smtp_sasl_mechanism_filter is {mechanisms}"
        step = "write: smtp_sasl_mechanism_filter = xoauth2"
        yield Fault(where("smtp_sasl_mechanism_filter"), "does not log in with its token", cause, step)
    elif not mechanisms:
        cause = "without smtp_sasl_mechanism_filter Postfix may send the token as a password"
        step = "write: smtp_sasl_mechanism_filter = xoauth2"
        yield Fault(place, "may not log in with its token", cause, step, certain=False)
    general = _value(settings, "smtp_sasl_security_options", "noplaintext, noanonymous")
    options = _value(settings, "smtp_sasl_tls_security_options", general).lower()
    if "noplaintext" in re.split(r"[\s,]+", options):
        cause = "smtp_sasl_security_options has noplaintext (the default too), which excludes most plug-ins for XOAUTH2"
        step = "write: smtp_sasl_security_options = noanonymous"
        line = where(
            "smtp_sasl_tls_security_options"
            if "smtp_sasl_tls_security_options" in settings
            else "smtp_sasl_security_options"
        )
        yield Fault(line, "may not log in with its token", cause, step, certain=False)
