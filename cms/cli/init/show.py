"""`cms show`: the settings for one mail program, at any time. `cms init` shows or writes the same ones."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cms.cli.failure import FAILED, Failure
from cms.cli.init import mail_programs
from cms.cli.init.mail_programs import Setting, Tool
from cms.cli.terminal import Terminal, aside, at_length, complain, has_pager, say, say_at_length
from cms.config.model import Config
from cms.core.accounts import Account, accounts_meant, is_served, users_in_words, users_to_type
from cms.system import users
from cms.system.files import PRIVATE_FOLDER, make_folders
from cms_oauth import paths, tls
from cms_oauth.addresses import bare, is_pattern
from cms_oauth.documents import located
from cms_oauth.expand import literal
from cms_oauth.mailtest.dialogue import place_of
from cms_oauth.moves import Command
from cms_oauth.providers import PROVIDERS
from cms_oauth.text import printable

_PRIVATE_FILE = 0o600


def show(config: Config, user: str, names: Sequence[str], folder: str) -> int:
    """Print the settings of the named programs, or write them to a folder; return the exit status.

    Without a name: a list of the programs, or with a folder the files for all that this machine has.
    """
    tools = [_called(each) for each in names]
    if not tools and not folder:
        say_at_length(_list(mail_programs.found()))
        return 0
    account = _account(config, user)
    tools = tools or mail_programs.found()
    if not tools:
        raise Failure("no mail program that cms knows is installed here", "name one: `cms show --write=DIR PROGRAM`")
    if folder:
        # Each file is tried, and each that is in the way is named.
        written = [write(account, each, Path(folder)) for each in tools]
        return 0 if all(written) else FAILED
    setting = setting_of(account)
    with at_length() as tell:
        for tool in tools:
            # Not on the standard output of `cms show msmtp >> ~/.msmtprc`, which has the settings alone.
            head = tell if has_pager() else aside
            head(f"# {tool.name} for {account.user}: {tool.goes}; docs/clients/{tool.page}.md\n")
            tell(mail_programs.fragment(tool, setting).rstrip("\n"))
    if elsewhere := socket_elsewhere(tools, socket_of(config, account)):
        aside(elsewhere)
    return 0


def _called(name: str) -> Tool:
    """Return the program with this name: of several rows for one program, the one that fits this machine."""
    meant = [each for each in mail_programs.TOOLS if name.lower() in (each.key, each.name.lower())]
    if not meant:
        known = ", ".join(keys())
        raise Failure(f"cms has no settings for {name}", f"it has them for {known}\ndocs/clients/README.md has others")
    here = mail_programs.found()
    return next((each for each in meant if each in here), meant[0])


def keys() -> list[str]:
    """Return the names that `cms show` takes, each once."""
    return list(dict.fromkeys(each.key for each in mail_programs.TOOLS))


def _list(here: Sequence[Tool]) -> str:
    """Return the programs that can be named: those of this machine, and the others."""
    mine = list(dict.fromkeys(each.key for each in here))
    others = [each for each in keys() if each not in mine]
    example = (mine or others)[0]
    return "\n".join(
        [
            f"Mail programs here: {', '.join(mine) or 'none that cms knows'}",
            f"Others: {', '.join(others)}",
            f"Next: `cms show {example}`",
        ]
    )


def _account(config: Config, user: str) -> Account:
    """Return the account whose settings to show: the named one, else the configuration's first. Raises Failure."""
    meant = accounts_meant(config.accounts, user)
    if not meant:
        raise Failure(f"there is no account {user}", f"name one of these: {users_to_type(config.accounts)}")
    if not user and len({each.user for each in meant}) > 1:
        first = "This is for the first; `--user=ADDRESS` names another, and the page says where a second one goes."
        aside(f"The accounts are {users_in_words(meant)}. {first}")
    found = meant[0]
    if found.domain and is_pattern(user or found.user):
        raise Failure(f"{found.user} is every address of a domain", f"name one: --user=ADDRESS@{found.domain}")
    return replace(found, user=bare(user)) if found.domain else found


def setting_of(account: Account) -> Setting:
    """Return the values for this account and this user's machine."""
    program = "cms-oauth" if shutil.which("cms-oauth") else str(Path(sys.executable).parent / "cms-oauth")
    smtp, imap = place_of("smtp", account.smtp_host), place_of("imap", account.imap_host)
    if not smtp or not imap:
        raise Failure(
            f"the mail servers of {account.user} are not known",
            "set imap_host= and smtp_host= of the account in the configuration",
        )
    return Setting(
        *(account.user, _own_name(account), smtp.host, imap.host, program),
        login=os.environ.get("SUDO_USER") or users.user_name(os.getuid()),
        runtime=os.path.dirname(paths.default_socket()),  # noqa: PTH120 - as the configuration has it
        smtp_port=smtp.port,
        imap_port=imap.port,
        authorities=_authorities(os.environ.get("SSL_CERT_FILE", "")),
        provider=PROVIDERS[account.grant.provider].title,
    )


def _authorities(file: str) -> str:
    """Return the file of the authorities that the tests of cms trust, if it is there and needs no quotes anywhere."""
    plain = re.fullmatch(r"/[\w./+-]+", file) and not tls.misnamed(os.environ, ["SSL_CERT_FILE"])
    return file if plain else mail_programs.DEBIANS_AUTHORITIES


def _own_name(account: Account) -> str:
    """Return the user's full name from the machine's user database, else the part of the address before the @."""
    known = users.user(os.getuid())
    return printable((known.pw_gecos if known else "").partition(",")[0]).strip() or account.user.partition("@")[0]


def write(account: Account, tool: Tool, folder: Path) -> bool:
    """Write a program's settings to a file of the folder. False if a file is in the way: it is not changed."""
    make_folders(folder, PRIVATE_FOLDER)
    path = folder / tool.file_name
    try:
        with open(path, "x", encoding="utf-8", opener=_private) as file:
            file.write(located(mail_programs.fragment(tool, setting_of(account))))
    except FileExistsError:
        complain(f"{path} already exists and was not changed", "remove it, or name another folder")
        return False
    say(f"Wrote {path}: {tool.name}, for {tool.goes}; docs/clients/{tool.page}.md")
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _PRIVATE_FILE)


def socket_of(config: Config, account: Account) -> str:
    """Return where this account's tokens are: the socket that programs find without being told, else the first."""
    there = [each.path for each in config.sockets if each.speaks == "tokens" and is_served(each.accounts, account.user)]
    return next((each for each in there if _is_found(each)), there[0] if there else paths.default_socket())


def _is_found(socket: str) -> bool:
    usual = {os.path.realpath(each) for each in paths.socket_candidates()}
    return os.path.realpath(socket) in usual


def socket_elsewhere(tools: Sequence[Tool], socket: str) -> str:
    """Return what to set if a user's programs would not find the socket, "" if they do."""
    if all(each.of_machine for each in tools) or _is_found(socket):
        return ""
    return f"Programs look for the socket elsewhere: set CMS_SOCK={Command((literal(socket),))}"


def offer(person: Terminal, account: Account, tools: Sequence[Tool], folder: str, socket: str) -> None:
    """Name the programs of this machine, and show or write the settings of each that the person wants.

    A user's programs ask at `socket`.
    """
    if not tools:
        return
    person.say(f"\nMail programs here: {', '.join(each.name for each in tools)}.")
    verb = "Write" if folder else "Show"
    chosen = [each for each in tools if person.agree(f"{verb} the settings for {each.name}?")]
    if folder:
        for tool in chosen:
            write(account, tool, Path(folder))
    else:
        setting = setting_of(account)
        for tool in chosen:
            text = mail_programs.fragment(tool, setting)
            person.say(f"\n==== {tool.name}: {tool.goes}; docs/clients/{tool.page}.md ====\n\n{text}")
    if chosen and (elsewhere := socket_elsewhere(chosen, socket)):
        person.say(elsewhere)
