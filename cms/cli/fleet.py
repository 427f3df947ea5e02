"""`cms fleet`: makes and changes the database in which hosts share their sign-ins, shows it, and moves sign-ins there.

The grant worker does the work, because it alone has the keys and speaks to the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cms.cli.failure import FAILED, Failure
from cms.cli.load import load_config
from cms.cli.terminal import aside, complain, say, say_at_length, working
from cms.config.arguments import Mistake
from cms.config.fleet import checked
from cms.config.model import Config
from cms.core.accounts import Account, Fleet, Grant, users_in_words
from cms.core.status_table import some
from cms.core.words import duration
from cms.grants.messages import FleetReport, FleetWork, SharedSignIn
from cms_oauth import paths

_NO_FLEET = Failure(
    "the configuration has no Fleet(...), so this host shares no sign-in", "docs/fleet.md says how to set one up"
)


# How many sign-ins one question moves: each takes some milliseconds, and a question has a time limit.
_AT_ONCE = 200


def _configured(path: str) -> tuple[Config, Fleet]:
    """Return the configuration, and the fleet in it. Raises Failure."""
    config = load_config(path)
    if config.fleet is None:
        raise _NO_FLEET
    return config, config.fleet


def _report(config: Config, action: str, owner: str = "", grants: Sequence[Grant] = ()) -> FleetReport:
    """Have the worker do one of the actions of `FleetWork`; return what it reports. Raises Failure."""
    # Imported here because it loads half a daemon.
    from cms.cli import daemonless  # noqa: PLC0415
    from cms.system import logs  # noqa: PLC0415

    logs.setup(level="error")
    with working("asking the database"):
        return daemonless.fleet_work(config, lambda number: FleetWork(number, action, owner, tuple(grants)))


def make(path: str, action: str, owner: str) -> int:
    """Make the tables, or bring them up to date: print the statements, or run them as the owner."""
    config, fleet = _configured(path)
    try:
        owner = owner and checked(owner)
    except Mistake as mistake:
        raise Failure(mistake.message.replace("dsn=", "--owner", 1), mistake.hint) from None
    done = _report(config, action, owner)
    for each in done.made:
        aside(f"made the key file {each}")
    for each in done.no_file:
        aside(f"no key was made for {each}: put 32 random bytes there, as `openssl rand -base64 32` prints them")
    if done.made:
        aside(
            "Copy both key files to every host that may sign in, and only the one of token_key= to those that serve only."
        )
    if done.ran:
        say(f"the database has the tables of version {done.program} in the schema {fleet.schema}")
    else:
        # As it is: psql reads it.
        say(done.statements.rstrip("\n"))
        aside("Next, as the database's owner: give psql these statements (docs/fleet.md).")
    return 0


def adopt(path: str) -> int:
    """Move this host's own sign-ins into the fleet."""
    config, _ = _configured(path)
    names, folder = _names(config), Path(paths.state_folder())
    own = [each for each in config.grants if (folder / f"{each.key}.vault").exists()]
    moved, failed = list[str](), False
    for first in range(0, len(own), _AT_ONCE):
        done = _report(config, "adopt", grants=own[first : first + _AT_ONCE])
        for each in done.unmoved:
            complain(f"{names.get(each.key) or each.login or each.key}: not moved: {each.message}", each.hint)
        moved += [names.get(key, key) for key in done.adopted]
        failed |= bool(done.unmoved)
    say(f"moved into the fleet: {some(moved)}" if moved else "there was nothing to move")
    return FAILED if failed else 0


def status(path: str) -> int:
    """Show what the database has."""
    config, fleet = _configured(path)
    say_at_length("\n".join(_lines(config, fleet, _report(config, "status"))))
    return 0


def _names(config: Config) -> dict[str, str]:
    """Return the names of the accounts of each sign-in, by its key."""
    found = dict[str, list[Account]]()
    for each in config.accounts:
        found.setdefault(each.grant.key, []).append(each)
    return {key: users_in_words(accounts) for key, accounts in found.items()}


def _lines(config: Config, fleet: Fleet, done: FleetReport) -> Iterator[str]:
    role = "serves only" if fleet.serves_only else "signs in, and fetches tokens"
    yield f"fleet in the schema {fleet.schema}, tables of version {done.version}; this host {role}"
    names = _names(config)
    yield from (f"{names[each.key]}: {_told(each)}" for each in done.sign_ins if each.key in names)
    known = {each.key for each in done.sign_ins}
    yield from (f"{name}: nobody has signed in" for key, name in names.items() if key not in known)
    if others := [each for each in done.sign_ins if each.key not in names]:
        yield f"sign-ins of other hosts' accounts: {len(others)}{_troubled(others)}"


def _troubled(others: Sequence[SharedSignIn]) -> str:
    late = sum(bool(each.holder) and each.lease < 0 for each in others)
    return f", of which {late} with a claim that is over" if late else ""


def _told(each: SharedSignIn) -> str:
    """Return what the database has of a sign-in, in words."""
    said = [each.state]
    if each.minted_by:
        left = f"{duration(each.expires_in)} left" if each.expires_in > 0 else "expired"
        said.append(f"newest token from {each.minted_by}, {left}")
    if each.holder:
        until = f"for {duration(each.lease)} more" if each.lease > 0 else f"which ended {duration(-each.lease)} ago"
        said.append(f"claimed by {each.holder}, {until}")
    if each.unshared:
        said.append("this host has a later refresh token, not yet shared")
    return "; ".join(said)
