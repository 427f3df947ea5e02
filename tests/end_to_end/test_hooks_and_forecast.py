"""Hooks and the forecast, as users have them: a real worker, a real Entra over TLS, real programs as hooks."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from support import evidence
from support.ports import free_port
from support.whole_daemon import ANN, HOUR, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.lifecycle import Granted
from cms.daemon.control.answers import Result
from cms.grants.messages import Prompt

DAY = 24 * HOUR
# The longest that cms believes in: two renewals a week.
LONG_LIFE = 6 * DAY

# A hook that keeps what it is told, each time in one piece: a file for each notice.
KEEP = """
import os, sys, tempfile
lines = [f"{name}={value}" for name, value in sorted(os.environ.items())]
descriptor, draft = tempfile.mkstemp(dir=sys.argv[1], prefix="draft-")
os.write(descriptor, "\\n".join(lines).encode())
os.rename(draft, draft.replace("draft-", "notice-"))
"""


class Told:
    """What a hook was told so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "told"
        self.folder.mkdir()
        self.program = folder / "keep.py"
        self.program.write_text(KEEP)

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-I", str(self.program), str(self.folder)]

    def all(self, event: str) -> list[dict[str, str]]:
        """Return the environments of all notices of an event."""
        return [each for each in self.everything() if each["CMS_EVENT"] == event]

    def everything(self) -> list[dict[str, str]]:
        """Return the environments of all notices."""
        texts = [path.read_text() for path in self.folder.glob("notice-*")]
        return [dict(line.split("=", 1) for line in text.splitlines() if "=" in line) for text in texts]

    def due_at(self, moment: float) -> dict[str, str]:
        """Return the notice of a sign-in that is due at this Unix time, or None."""
        return next((each for each in self.all("sign-in-due") if each["CMS_DUE"] == str(int(moment))), {})

    async def one(self, event: str) -> dict[str, str]:
        """Wait for a notice of an event, and return it; the next call is for the next."""
        found = await until(lambda: self.all(event), f"a notice: {event}")
        for path in self.folder.glob("notice-*"):
            if f"CMS_EVENT={event}\n" in path.read_text():
                path.unlink()
        return found[0]


async def notify(daemon: WholeDaemon, told: Told, options: str = "") -> None:
    """Add a hook to the configuration, and reload."""
    config = daemon.folder / "cms.cfg"
    config.write_text(f"{config.read_text()}Notify({told.argv!r}{options})\n")
    reloaded = await daemon.app.commands.reload()
    assert reloaded.ok, reloaded


@on_moving_clock
async def test_a_sign_in_that_is_required_is_told_until_it_is_done(tmp_path: Path) -> None:
    """A hook hears that a sign-in is required, with the command; again after 15 minutes; its link; and its end."""
    told = Told(tmp_path)
    async with whole_daemon(tmp_path) as daemon:
        await notify(daemon, told)
        daemon.entra.revoke(ANN)
        await daemon.app.commands.refresh(ANN)
        first = await told.one("sign-in-required")
        await daemon.pass_time(15 * 60 + 1)
        again = await told.one("sign-in-required")
        outcome = await daemon.sign_in(ANN)
        assert isinstance(outcome, Granted)
        done = await told.one("signed-in")

    assert (ANN, f"cms login {ANN}", "", "50173") == tuple(
        first[name] for name in ("CMS_ACCOUNT", "CMS_LOGIN", "CMS_URL", "CMS_AADSTS")
    )
    assert f"cms login {ANN}" in first["CMS_HINT"]
    assert first["CMS_MESSAGE"] == again["CMS_MESSAGE"]
    assert (ANN, "") == (done["CMS_ACCOUNT"], done["CMS_URL"])


@on_moving_clock
async def test_the_page_is_told(tmp_path: Path) -> None:
    """Where a browser is to be used, the page for all that wait is in the notice."""
    told, page = Told(tmp_path), f"http://127.0.0.1:{free_port()}/"
    async with whole_daemon(tmp_path) as daemon:
        await notify(daemon, told, f")\nSignInPage(url={page!r}")
        daemon.entra.revoke(ANN)
        await daemon.app.commands.refresh(ANN)
        await told.one("sign-in-required")
        await until(
            lambda: daemon.row(ANN)["next_move"].endswith(f"open {page} in a browser on this machine"), "the page"
        )
        await daemon.pass_time(15 * 60 + 1)
        again = await told.one("sign-in-required")

    assert page == again["CMS_PAGE"]


@on_moving_clock
async def test_the_link_of_a_sign_in_is_told(tmp_path: Path) -> None:
    """A hook's variables hold the link, or the code, of a sign-in that was started elsewhere."""
    told = Told(tmp_path)
    async with whole_daemon(tmp_path, signed_in=False) as daemon:
        await notify(daemon, told, ", events=['sign-in-required']")
        await told.one("sign-in-required")
        flow = daemon.app.commands.login(ANN, "device")
        assert not isinstance(flow, Result)
        with flow.held():
            shown = await flow.prompt()
            assert isinstance(shown, Prompt)
            asked = await told.one("sign-in-required")
            approve = daemon.entra.approve_device
            await trio.to_thread.run_sync(approve, asked["CMS_CODE"], ANN)

    assert (shown.url, shown.user_code) == (asked["CMS_URL"], asked["CMS_CODE"])
    assert asked["CMS_CODE"] in asked["CMS_HINT"]


@on_moving_clock
async def test_no_token_is_ever_told(tmp_path: Path) -> None:
    """Whatever a hook is told, none of all that Entra gave away is in it, nor what was sent to it, nor the vault's key."""
    told, evidence_folder = Told(tmp_path), evidence.folder()
    assert evidence_folder is not None
    async with whole_daemon(tmp_path) as daemon:
        await notify(daemon, told, ", events=['refreshed', 'signed-in', 'sign-in-required']")
        await daemon.app.commands.refresh(ANN)
        await until(lambda: told.all("refreshed"), "a notice: refreshed")
        daemon.entra.revoke(ANN)
        await daemon.app.commands.refresh(ANN)
        await until(lambda: told.all("sign-in-required"), "a notice: sign-in-required")
        assert isinstance(await daemon.sign_in(ANN), Granted)
        await until(lambda: told.all("signed-in"), "a notice: signed-in")
        token, key = await daemon.token(ANN), (tmp_path / "key").read_bytes().strip()

    issued = evidence.known_secrets(evidence_folder).union(*map(evidence.pieces, evidence.spellings(key)))
    assert all(evidence.holds_secret(f"x={each}", issued) for each in (token, key.decode()))
    assert [] == [name for each in told.everything() for name in each if evidence.holds_secret(each[name], issued)]


@on_moving_clock
async def test_the_forecast_knows_the_organisations_rhythm(tmp_path: Path) -> None:
    """After two sign-ins that ended after a week each, the third one's end is foretold: status, monitoring and hook."""
    told = Told(tmp_path)
    async with whole_daemon(tmp_path, life=LONG_LIFE) as daemon:
        await notify(daemon, told, ", events=['sign-in-due']")
        for _ in range(2):
            await daemon.pass_time(7 * DAY)
            daemon.entra.revoke(ANN, 70043)
            await daemon.app.commands.refresh(ANN)
            assert daemon.row(ANN)["forecast"] is None
            assert isinstance(await daemon.sign_in(ANN), Granted)
        fresh, given = daemon.row(ANN), daemon.clock.wall()
        assert 0 == daemon.exit_code()
        await daemon.pass_time(6.5 * DAY)
        due, text, code = daemon.row(ANN), daemon.text(), daemon.exit_code()
        # The end of the second one was foretold as well, as possible.
        notice = await until(lambda: told.due_at(due["forecast"]["due"]), "the notice of the third one")

    assert abs(fresh["signed_in_at"] - given) < 60
    assert abs(fresh["forecast"]["due"] - given - 7 * DAY) < 60
    assert ("likely", "sign-in frequency of the organisation, seen twice") == (
        fresh["forecast"]["certainty"],
        fresh["forecast"]["reason"],
    )
    assert (False, True, 1) == (fresh["sign_in_due"], due["sign_in_due"], code)
    assert "given 6 d 12 h ago; next expected in 1" in text
    assert f"cms login {ANN}" in notice["CMS_HINT"]
    assert "(likely)" in notice["CMS_MESSAGE"]
