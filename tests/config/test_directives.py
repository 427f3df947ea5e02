"""How directives are called, and those of CMS that cms has no use for."""

from __future__ import annotations

import pytest
from support.configuration import Loader, Refuser

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
