"""The names that a configuration file can use: the table of directives, and how they are called.

A directive checks its arguments (arguments.py) and puts what it builds into the `Draft` of its load. It raises Mistake
for an error; the line is found on the call stack.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cms.config import arguments, office365, serving, settings
from cms.config.arguments import Given, Mistake
from cms.config.draft import MOVES_NO_MAIL, Draft, IgnoredHandle

T = TypeVar("T")

# cloud_mdir_sync's directives that cms ignores, and why.
_IGNORED = {
    "MailDir": MOVES_NO_MAIL,
    "GMail": "cms serves tokens and moves no mail, and serves Microsoft accounts only: mbsync does that, with pizauth"
    " or oama",
    "GMail_Account": "cms serves Microsoft accounts only; pizauth and oama know Google's",
}


def namespace(draft: Draft) -> dict[str, Given]:
    """Return the global names that the file starts with."""
    directives: dict[str, Callable[..., Given]] = {
        "Office365_Account": partial(office365.office365_account, draft),
        "Office365": partial(office365.office365, draft),
        "CredentialServer": partial(serving.credential_server, draft),
        "PostfixTable": partial(serving.postfix_table, draft),
        "TokenFile": partial(serving.token_file, draft),
        "Protocol": partial(serving.protocol, draft),
        "Vault": partial(settings.vault, draft),
        "Tls": partial(settings.tls, draft),
        "Notify": partial(settings.notify, draft),
        "SignInPage": partial(settings.sign_in_page, draft),
        "Proxy": partial(settings.proxy, draft),
        "File": partial(settings.file, draft),
        "Credential": settings.credential,
        "Command": partial(settings.command, draft),
        **{name: partial(_ignore, draft, name) for name in _IGNORED},
    }
    return {name: _checked(name, each) for name, each in directives.items()} | {"cfg": _Cfg(draft)}


def _ignore(draft: Draft, directive: str, /, *_: Given, **__: Given) -> IgnoredHandle:
    draft.warn(draft.line(), f"{directive} is ignored: {_IGNORED[directive]}")
    return IgnoredHandle(directive)


class _Cfg:
    """cloud_mdir_sync's `cfg` object. A file may set its one documented attribute, a function that sorts mail; cms ignores it."""

    _draft: Draft

    def __init__(self, draft: Draft) -> None:
        object.__setattr__(self, "_draft", draft)

    def __setattr__(self, name: str, value: Given) -> None:
        if name != "direct_message":
            raise Mistake(f"cfg has no attribute {name}", arguments.nearest(name, ["direct_message"]))
        self._draft.warn(self._draft.line(), f"cfg.direct_message is ignored: {MOVES_NO_MAIL}")


def _checked(name: str, directive: Callable[..., T]) -> Callable[..., T]:
    """Wrap a directive: wrong argument lists become Mistakes too, and every Mistake begins with the directive's name."""
    signature = inspect.signature(directive)
    known = [each.name for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    takes_anything = len(known) < len(signature.parameters)

    @functools.wraps(directive)
    def checked(*positional: Given, **named: Given) -> T:
        for each in named:
            if each not in known and not takes_anything:
                raise Mistake(f"{name} has no argument {each}=", arguments.nearest(each, known))
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise Mistake(f"{name}: {error}") from None
        try:
            return directive(*positional, **named)
        except Mistake as mistake:
            raise Mistake(f"{name}: {mistake.message}", mistake.hint) from None

    checked.__name__ = checked.__qualname__ = name
    return checked
