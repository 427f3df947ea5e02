"""How directives are called, and those of CMS that cms has no use for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from support.configuration import MACHINE, Loader, Refuser

from cms.config.directives import namespace
from cms.config.draft import Draft
from cms.config.model import Config
from cms.core.accounts import Source

ACCOUNT = "a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a])\n"


class TestMailSynchronising:
    @pytest.mark.parametrize(
        ("directive", "tool"),
        [
            ("MailDir('~/mail/INBOX')", "mbsync"),
            ("GMail('INBOX', GMail_Account(user='a@gmail.com'))", "mbsync"),
            ("GMail_Account('a@gmail.com')", "pizauth"),
            ("cfg.direct_message = lambda message: None", "mbsync"),
        ],
    )
    def test_loads_with_a_warning(self, load_text: Loader, directive: str, tool: str) -> None:
        """What CMS did with mail loads, whatever its arguments, with a warning that names the tool to use instead."""
        warnings = load_text(f"{ACCOUNT}x = {directive}" if "=" not in directive[:25] else ACCOUNT + directive).warnings

        assert (True, True) == (":3: " in warnings[-1], tool in warnings[-1])

    def test_google_accounts_are_left_out(self, load_text: Loader) -> None:
        """A socket for Microsoft and Google accounts serves the Microsoft ones, and a warning says so."""
        config = load_text(
            """\
            a = Office365_Account('a@example.com')
            g = GMail_Account('a@gmail.com')
            CredentialServer('cms.sock', [a, g])
            """
        )

        assert ["a@example.com"] == [each.user for each in config.sockets[0].accounts]
        assert ":3: the Google accounts are left out: cms serves Microsoft accounts only" in config.warnings[1]

    def test_cfg_has_one_attribute(self, refuse: Refuser) -> None:
        """Any other attribute of cfg is refused, and the nearest is named."""
        refusal = refuse("cfg.direct_mesage = None")

        assert (1, "Did you mean direct_message?") == (refusal.line, refusal.hint)


class TestArgumentLists:
    def test_unknown_argument(self, refuse: Refuser) -> None:
        """An unknown argument is answered with the nearest one that the directive has."""
        refusal = refuse("\n\nOffice365_Account(usr='a@example.com')")

        assert (3, "Office365_Account has no argument usr=", "Did you mean user?") == (
            refusal.line,
            refusal.message,
            refusal.hint,
        )

    def test_argument_of_a_later_version(self, refuse: Refuser) -> None:
        """An argument that is like none is answered with all of them."""
        assert "Known: key" == refuse("Vault(rotation=30)").hint

    def test_twice_given(self, refuse: Refuser) -> None:
        """An argument that is given twice is told as Python tells it, with the directive's name."""
        refusal = refuse("Office365_Account('a@example.com', user='a@example.com')")

        assert "Office365_Account: multiple values for argument 'user'" == refusal.message


# Every argument that is a path, and what the configuration makes of it.
PATHS: dict[str, tuple[str, Callable[[Config], object]]] = {
    "CredentialServer": ("CredentialServer({}, [a])", lambda found: found.sockets[-1].path),
    "PostfixTable": ("PostfixTable({}, [a])", lambda found: found.sockets[-1].path),
    "TokenFile": ("TokenFile({}, a, 'SMTP')", lambda found: found.files[-1].path),
    "Tls": ("Tls(ca={})", lambda found: found.ca),
    "File": ("Vault(key=File({}))", lambda found: found.vault_key.value[0] if found.vault_key else ""),
    "Command": ("Vault(key=Command([{}, '$X']))", lambda found: found.vault_key.value[0] if found.vault_key else ""),
    "Notify": ("Notify([{}, '$X'])", lambda found: found.hooks[-1].argv[0]),
    "Notify alone": ("Notify({})", lambda found: found.hooks[-1].argv[0]),
}


@pytest.mark.parametrize("directive", PATHS)
class TestPaths:
    @pytest.mark.parametrize(
        ("written", "meant"), [("$XDG_RUNTIME_DIR/it", "/it"), ("${XDG_RUNTIME_DIR}/./it", "/it"), ("~/$$x", "/$x")]
    )
    def test_one_rule(  # noqa: PLR0917 - fixtures
        self,
        load_text: Loader,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        directive: str,
        written: str,
        meant: str,
    ) -> None:
        """Variables and home folders are replaced in every path, so that no folder called `$XDG_RUNTIME_DIR` is made."""
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / meant[1:]).write_text("-----BEGIN CERTIFICATE-----")
        call, found = PATHS[directive]
        config = load_text(f"{ACCOUNT}{call.format(repr(written))}")

        assert f"{tmp_path}{meant}" == found(config)

    @pytest.mark.parametrize(
        ("written", "why"),
        [
            ("$NO_SUCH_NAME/it", "the variable NO_SUCH_NAME is not set"),
            ("%t/cms/it", "only systemd replaces %t"),
            ("/run/user/`id -u`/it", "it has a command in it"),
            ("/run/${X:-y}/it", "only a variable's name"),
        ],
    )
    def test_what_means_another_file_is_refused(self, refuse: Refuser, directive: str, written: str, why: str) -> None:
        """With the line of the directive."""
        refusal = refuse(f"{ACCOUNT}{PATHS[directive][0].format(repr(written))}")

        assert 3 == refusal.line
        assert f"= cannot be used: {why}" in refusal.message


def test_every_path_follows_the_rule() -> None:
    """A new argument that names a file or a program belongs into the table above."""
    named = {
        directive
        for directive, each in namespace(Draft("cms.cfg", MACHINE)).items()
        if callable(each) and {"path", "ca", "command", "argv"} & set(inspect.signature(each).parameters)
    }

    assert named == {each.partition(" ")[0] for each in PATHS}


@pytest.mark.parametrize("value", ["a\nb", "/run/x\x1b[2J"])
def test_a_value_with_control_characters_is_no_path(
    refuse: Refuser, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """What a variable adds is checked like what the file says."""
    monkeypatch.setenv("ODD", value)

    assert "path= is empty or has control characters in it" in refuse(f"{ACCOUNT}TokenFile('/$ODD', a, 'SMTP')").message


def test_a_program_beside_the_configuration(load_text: Loader, tmp_path: Path) -> None:
    """A relative path starts at the configuration's folder for `Command` too, not where the daemon was started."""
    config = load_text(f"{ACCOUNT}Vault(key=Command(['./key.sh', './as-it-is']))")

    assert config.vault_key == Source("command", (str(tmp_path / "key.sh"), "./as-it-is"))
