"""Reads Emacs' init file, and the files that it loads by name: smtpmail's settings, contrib/cms.el's, and runs of cms-oauth.

The Lisp is not run. What is set is taken from `setq`, `customize`, `use-package` and `add-to-list`, wherever it stands. Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.elisp import Form, Symbol, Text, everywhere, forms
from cms.cli.doctor.mail_tools.found import UNKNOWN, Command, Fault, Files, Login, Machine, Place, Use

_SETS = {"setq", "setq-default", "setopt", "setq-local", "customize-set-variable", "custom-set-default"}

# Functions that run a program: where its name stands among their arguments, and where its own arguments begin.
_RUNS = {
    **dict.fromkeys(("process-lines", "process-lines-ignore-status"), (1, 2)),
    **dict.fromkeys(("call-process", "process-file"), (1, 5)),
    "call-process-region": (3, 7),
    **dict.fromkeys(("start-process", "start-file-process"), (3, 4)),
}
_SHELLS = {"shell-command-to-string", "shell-command", "async-shell-command", "start-process-shell-command"}

# What contrib/cms.el has if the init file does not set it.
_HOSTS = ("smtp.office365.com", "outlook.office365.com")

# Emacs' own, until it is changed.
_AUTH = ("cram-md5", "plain", "login")


@dataclass
class _Settings:
    """Variables with their values as words, and the line that set them last."""

    values: dict[str, tuple[list[str], Place]] = field(default_factory=dict)
    features: dict[str, Place] = field(default_factory=dict)

    def words(self, name: str, default: tuple[str, ...] = ()) -> list[str]:
        return self.values[name][0] if name in self.values else list(default)

    def place(self, name: str, otherwise: Place) -> Place:
        return self.values[name][1] if name in self.values else otherwise


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "Emacs")
    settings, found = _Settings(), list[Use]()
    for path in machine.first("~/.emacs.el", "~/.emacs", "~/.emacs.d/init.el", f"{machine.config_home}/emacs/init.el"):
        _read(files, path, None, settings, found)
    yield from found
    yield from _sending(settings)
    yield from _sendmail(settings, machine)
    yield from files.unread


def _read(files: Files, path: str, included: Place | None, settings: _Settings, found: list[Use]) -> None:
    for form in everywhere(forms(files.text(path, included))):
        place = Place("Emacs", path, form.line)
        arguments = form.items[1:]
        if form.head in _SETS:
            for name, value in zip(arguments[::2], arguments[1::2], strict=False):
                _set(settings, name, value, place)
        elif form.head == "custom-set-variables":
            _set_each(settings, arguments, place)
        elif form.head == "use-package":
            _set_each(settings, _after(arguments, ":custom"), place)
        elif form.head == "add-to-list" and len(arguments) > 1:
            _add(settings, arguments[0], arguments[1], place)
        elif form.head == "push" and len(arguments) > 1:
            _add(settings, arguments[1], arguments[0], place)
        elif form.head in {"require", "cms-enable"}:
            _require(settings, form, place)
        elif form.head in {"load", "load-file"} and arguments:
            _load(files, arguments[0], place, settings, found)
        else:
            found += _run(form, place, files.machine)


def _require(settings: _Settings, form: Form, place: Place) -> None:
    """Keep which library is loaded: by name, or contrib/cms.el by its command, which also sets `auth-sources`."""
    if form.head == "cms-enable":
        settings.features.setdefault("cms", place)
        _add(settings, Symbol("auth-sources"), Symbol("cms"), place)
    elif len(form.items) > 1 and isinstance(form.items[1], Symbol):
        settings.features.setdefault(form.items[1].name, place)


def _set(settings: _Settings, name: Form | Text | Symbol, value: Form | Text | Symbol, place: Place) -> None:
    if isinstance(name, Symbol):
        settings.values[name.name] = (_words(value), place)


def _add(settings: _Settings, name: Form | Text | Symbol, value: Form | Text | Symbol, place: Place) -> None:
    if isinstance(name, Symbol):
        settings.values[name.name] = ([*settings.words(name.name), *_words(value)], place)


def _set_each(settings: _Settings, items: list[Form | Text | Symbol], place: Place) -> None:
    for each in items:
        if isinstance(each, Form) and len(each.items) > 1:
            _set(settings, each.items[0], each.items[1], Place(place.tool, place.path, each.line))


def _after(items: list[Form | Text | Symbol], keyword: str) -> list[Form | Text | Symbol]:
    """Return what stands between a keyword of `use-package` and the next one."""
    found, inside = list[Form | Text | Symbol](), False
    for each in items:
        if isinstance(each, Symbol) and each.name.startswith(":"):
            inside = each.name == keyword
        elif inside:
            found.append(each)
    return found


def _words(value: Form | Text | Symbol) -> list[str]:
    """Return the words of a value: one of a text or symbol, those of a list."""
    if isinstance(value, Form):
        items = value.items[1:] if value.head in {"list", "expand-file-name"} else value.items
        return [each.value if isinstance(each, Text) else each.name for each in items if not isinstance(each, Form)]
    if isinstance(value, Symbol):
        return [] if value.name == "nil" else [value.name]
    return [value.value]


def _load(files: Files, value: Form | Text | Symbol, place: Place, settings: _Settings, found: list[Use]) -> None:
    """Read a file that is loaded. Only a whole name is followed: other files are looked for in `load-path`."""
    name = _path(value, settings, posixpath.dirname(place.path))
    if name.startswith(("/", "~")):
        whole = files.machine.expand(name)
        for path in files.machine.first(whole, f"{whole}.el"):
            _read(files, path, place, settings, found)


def _path(value: Form | Text | Symbol, settings: _Settings, folder: str) -> str:
    """Return the path that an expression gives, "" if it is not known."""
    if isinstance(value, Text):
        return value.value
    if isinstance(value, Symbol):
        return f"{folder}/" if value.name == "user-emacs-directory" else "".join(settings.words(value.name)[:1])
    parts = [_path(each, settings, folder) for each in value.items[1:]]
    if value.head == "concat":
        return "".join(parts)
    if value.head == "locate-user-emacs-file" and parts:
        return posixpath.join(folder, parts[0])
    return posixpath.join(*reversed(parts[:2])) if value.head == "expand-file-name" and parts else ""


def _run(form: Form, place: Place, machine: Machine) -> list[Use]:
    arguments = [each.value if isinstance(each, Text) else UNKNOWN for each in form.items]
    if form.head in _RUNS:
        name, first = _RUNS[form.head]
        words = [*arguments[name : name + 1], *arguments[first:]]
        return shell.program(words, place, machine) if words else []
    if form.head in _SHELLS:
        return [use for line in arguments[1:] for use in shell.asks(line, place, machine)]
    return []


def _sendmail(settings: _Settings, machine: Machine) -> list[Use]:
    """Return what the program asks that sends mail in Emacs' place."""
    if "sendmail-program" not in settings.values:
        return []
    path, place = settings.values["sendmail-program"]
    return shell.program([*path, *settings.words("message-sendmail-extra-arguments")], place, machine)


def _sending(settings: _Settings) -> Iterator[Use]:
    """Yield what contrib/cms.el asks, if it is loaded, and what keeps smtpmail from asking it."""
    used = settings.features.get("cms")
    if not used or "smtpmail-smtp-server" not in settings.values:
        return
    user = settings.words("smtpmail-smtp-user")
    command = settings.words("cms-command", ("cms-oauth",))
    words = (*command[1:], f"--user={user[0] if user else UNKNOWN}", "--proto=SMTP", "--output=token", "--no_newline")
    yield Command(settings.place("cms-command", used), words, login=Login("SMTP", "token", bare=True))
    if "cms" not in settings.words("auth-sources"):
        place = settings.place("auth-sources", used)
        cause = "auth-sources does not contain cms"
        yield Fault(place, "does not ask for a token", cause, "write: (add-to-list 'auth-sources 'cms)")
    server, where = settings.values["smtpmail-smtp-server"]
    if not set(server) <= set(settings.words("cms-hosts", _HOSTS)):
        cause = f"cms-hosts does not contain {', '.join(server)}"
        step = f'write: (setq cms-hosts \'("{", ".join(server)}"))'
        yield Fault(settings.place("cms-hosts", where), "does not ask for a token", cause, step)
    if "xoauth2" not in settings.words("smtpmail-auth-supported", _AUTH):
        place = settings.place("smtpmail-auth-supported", where)
        cause = "smtpmail-auth-supported does not contain xoauth2"
        yield Fault(place, "does not log in with its token", cause, "write: (setq smtpmail-auth-supported '(xoauth2))")
    if not user:
        cause = "smtpmail-smtp-user is not set, so smtpmail looks for no credential of its own accord"
        step = 'write: (setq smtpmail-smtp-user "ADDRESS")'
        yield Fault(where, "may not ask for a token", cause, step, certain=False)
