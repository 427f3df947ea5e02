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

from cms.config import account_files, arguments, fleet, oauth2, office365, serving, settings
from cms.config.arguments import Given, Mistake
from cms.config.draft import MOVES_NO_MAIL, Draft
from cms.config.ignored import Ignored

T = TypeVar("T")

# cloud_mdir_sync's directives that cms ignores, and why.
_IGNORED = {
    "MailDir": MOVES_NO_MAIL,
}

# Attributes of cloud_mdir_sync's `cfg` that cms has something else for. The others are about mail that it moves.
_INSTEAD = {"cfg.logger": "`cms run --log-level=debug` logs more, and --log-level=warning less"}

# Arguments whose members have an order.
_ORDERED = ("argv", "command")


# The names that a directive takes as `**`. Those that cms ignores take any.
_MORE = {"accounts_from": account_files.SHARED}


def namespace(draft: Draft) -> dict[str, Given]:
    """Return the global names that the file starts with."""
    directives: dict[str, Callable[..., Given]] = {
        "Office365_Account": partial(office365.office365_account, draft),
        "accounts_from": partial(account_files.accounts_from, draft),
        "Office365": partial(office365.office365, draft),
        "OAuth2_Account": partial(oauth2.oauth2_account, draft),
        "GMail_Account": partial(oauth2.gmail_account, draft),
        "GMail": partial(oauth2.gmail, draft),
        "CredentialServer": partial(serving.credential_server, draft),
        "PostfixTable": partial(serving.postfix_table, draft),
        "TokenFile": partial(serving.token_file, draft),
        "Protocol": partial(serving.protocol, draft),
        "Vault": partial(settings.vault, draft),
        "Tls": partial(settings.tls, draft),
        "Notify": partial(settings.notify, draft),
        "Audit": partial(settings.audit, draft),
        "Metrics": partial(settings.metrics, draft),
        "Fleet": partial(fleet.fleet, draft),
        "SignInPage": partial(settings.sign_in_page, draft),
        "Proxy": partial(settings.proxy, draft),
        "File": partial(settings.file, draft),
        "Credential": settings.credential,
        "Command": partial(settings.command, draft),
        **{name: partial(_ignore, draft, name) for name in _IGNORED},
    }
    checked = {name: _checked(draft, name, each, _MORE.get(name, ())) for name, each in directives.items()}
    return {"cfg": _cfg(draft), **checked}


def _ignore(draft: Draft, directive: str, /, *_: Given, **__: Given) -> Ignored:
    draft.warn(draft.line(), f"{directive} is ignored: {_IGNORED[directive]}")
    return draft.returned(directive, _IGNORED[directive])


def _cfg(draft: Draft) -> Ignored:
    """Return cloud_mdir_sync's `cfg`. Its one documented attribute is a function that sorts mail."""

    def warn(what: str) -> None:
        draft.warn(draft.line(), f"{what} is ignored: {_INSTEAD.get(what, MOVES_NO_MAIL)}")

    return Ignored("cfg", warn, lambda name: f"cfg.{name}")


def _checked(draft: Draft, name: str, directive: Callable[..., T], more: tuple[str, ...]) -> Callable[..., T]:
    """Wrap a directive: wrong argument lists become Mistakes too, and every Mistake begins with the directive's name."""
    signature = inspect.signature(directive)
    taken = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    known = [*(each.name for each in taken), *more]
    by_position = [each.name for each in taken if each.kind is each.POSITIONAL_OR_KEYWORD]
    required = {each.name for each in taken if each.default is each.empty}
    takes_anything = len(taken) < len(signature.parameters) and not more

    @functools.wraps(directive)
    def checked(*positional: Given, **named: Given) -> T:
        if takes_anything:
            return directive(*positional, **named)
        for each in named:
            if each not in known:
                raise Mistake(f"{name} has no argument {each}=", arguments.nearest(each, known))
        given = dict(zip(by_position, positional, strict=False)) | named
        # One too many, one twice, or one too few. Python finds the words; asked each time, it is a tenth of a long load.
        if len(given) < len(positional) + len(named) or not required <= given.keys():
            try:
                signature.bind(*positional, **named)
            except TypeError as error:
                # Python 3.12 and later call some arguments keyword-only, which helps only programmers.
                raise Mistake(f"{name}: {error}".replace("required keyword-only", "required")) from None
        try:
            return directive(**{each: _listed(draft, each, value) for each, value in given.items()})
        except Mistake as mistake:
            if mistake.place:
                raise
            raise Mistake(f"{name}: {mistake.message}", mistake.hint) from None

    checked.__name__ = checked.__qualname__ = name
    return checked


def _listed(draft: Draft, name: str, value: Given) -> Given:
    """Return the members of a set, a generator, a view of a dict or the like as a list, with a warning; else the value."""
    if isinstance(value, Ignored) or not arguments.is_collection(value):
        return value
    kind = type(value).__name__
    if isinstance(value, set | frozenset) and name in _ORDERED:
        raise Mistake(f"{name}= is a {kind}, which has no order", f"Write {name}=[...]")
    draft.warn(draft.line(), f"{name}= is a {kind}, where a list is usual: cms takes what is in it")
    return arguments.members(name, value)
