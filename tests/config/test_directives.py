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
            ("GMail_Account('a@gmail.com')", "docs/providers.md"),
            ("cfg.direct_message = lambda message: None", "mbsync"),
        ],
    )
    def test_loads_with_a_warning(self, load_text: Loader, directive: str, tool: str) -> None:
        """What CMS did with mail loads, whatever its arguments, with a warning that names the tool to use instead."""
        warnings = load_text(f"{ACCOUNT}x = {directive}" if "=" not in directive[:25] else ACCOUNT + directive).warnings

        assert (True, True) == (":3: " in warnings[-1], tool in warnings[-1])

    def test_google_accounts_are_left_out(self, load_text: Loader) -> None:
        """A socket serves no Google account without a client, and a warning says so."""
        config = load_text(
            """\
            a = Office365_Account('a@example.com')
            g = GMail_Account('a@gmail.com')
            CredentialServer('cms.sock', [a, g])
            """
        )

        assert ["a@example.com"] == [each.user for each in config.sockets[0].accounts]
        assert ":3: the Google accounts without client= are left out" in config.warnings[1]

    @pytest.mark.parametrize(
        ("use", "ignored"),
        [
            ("cfg.message_db_dir = '~/mail/.cms'", "cfg.message_db_dir"),
            ("cfg.logger.setLevel('DEBUG')", "cfg.logger"),
            ("cfg.async_limit += 1; cfg.hosts |= {'a'}", "cfg.async_limit, cfg.hosts"),
            ("cfg.args.offlineimap = True", "cfg.args"),
            ("cfg.filters.append(len); cfg.filters[0] = cfg.filters[1]('x')", "cfg.filters"),
            ("setattr(cfg, 'web_port', 8080); del cfg.web_port; del cfg.filters['x']", "cfg.web_port, cfg.filters"),
            ("@cfg.on_message\ndef f(msg): ...", "cfg.on_message"),
            ("with cfg.lock as lock, lock: cfg.lock.hold(lock)", "cfg.lock"),
            ("for each in cfg.accounts: 1 / 0", "cfg.accounts"),
            (
                "if cfg.verbose or len(cfg.domains) > cfg.limit or 'x' in cfg.domains: 1 / 0",
                "cfg.verbose, cfg.domains, cfg.limit",
            ),
            ("x = [*range(cfg.n), -cfg.n, 1 + cfg.n, 3 - cfg.n * 2, float(cfg.n), cfg.n >= 1]", "cfg.n"),
            ("print(cfg, f'{cfg.n:>3}' if 0 else cfg.n)", "cfg.n"),
            ("cfg()", "cfg"),
            ("MailDir('~/mail').keep = 3", "MailDir, keep of what MailDir returned"),
            ("box.poll(60)", "poll of what Office365 returned"),
            (
                "GMail('INBOX', GMail_Account('a@gmail.com')).labels.add('x')",
                "GMail_Account, GMail, labels of what GMail returned",
            ),
        ],
    )
    def test_a_file_does_what_it_likes_with_what_is_ignored(self, load_text: Loader, use: str, ignored: str) -> None:
        """cms knows none of cloud_mdir_sync's settings, so each loads, whatever the file does with it.

        There is one warning for each name on a line, however often a loop comes by.
        """
        start = ACCOUNT.replace("\n", "; box = Office365('inbox', a)\n", 1)
        warnings = load_text(f"{start}{use}\n").warnings
        again = use.replace("\n", "\n    ")
        looped = load_text(f"{start}def g():\n    {again}\ng(); g(); g()\n").warnings

        assert ignored.split(", ") == [each.partition(":3: ")[2].partition(" is ignored: ")[0] for each in warnings]
        assert len(warnings) == len(looped)

    def test_what_was_set_can_be_read(self, load_text: Loader) -> None:
        """A file may use its own setting, also one that lies deeper, and for something that cms does."""
        config = load_text(
            """\
            cfg.base = "/run/mail"
            cfg.args.count = 2
            cfg.args.count += len([cfg.base])
            for n in range(cfg.args.count):
                CredentialServer(f"{cfg.base}/{n}.sock", [Office365_Account(f"a{n}@example.com")])
            """
        )

        assert [f"/run/mail/{n}.sock" for n in range(3)] == [each.path for each in config.sockets]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            (
                "cfg.message_db_dir",
                "CredentialServer: cfg.message_db_dir has no value: it is a setting of cloud_mdir_sync",
            ),
            (
                "f'{cfg.db}/cms.sock'",
                "CredentialServer: path= cannot be used: only a variable's name and } may follow ${",
            ),
            ("os.path.join(cfg.db, 'x')", "cfg.db has no value: it is a setting of cloud_mdir_sync"),
        ],
    )
    def test_a_setting_that_was_not_set_is_no_path(self, refuse: Refuser, path: str, message: str) -> None:
        """cms does not know cloud_mdir_sync's defaults, and makes no file whose name is made up."""
        refusal = refuse(f"import os; a = Office365_Account('a@example.com')\nCredentialServer({path}, [a])")

        assert (2, message) == (refusal.line, refusal.message)

    def test_it_is_no_account(self, refuse: Refuser) -> None:
        """What is ignored does not become a part of what is served."""
        refusal = refuse(f"{ACCOUNT}CredentialServer('x', [cfg.account])")

        assert "not cfg.account" in refusal.message

    def test_python_asks_too(self, load_text: Loader) -> None:
        """Python's own questions to an object are answered as for any other: it can be copied, and is no descriptor."""
        assert load_text(f"{ACCOUNT}import copy\nassert not hasattr(copy.copy(cfg.x), '__get__')").sockets


class TestCollections:
    """Where a list is usual, other collections are taken with a warning: files have them."""

    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            ("{a, b}", "set"),
            ("frozenset([b, a])", "frozenset"),
            ("(each for each in [a, b])", "generator"),
            ("{'x': a, 'y': b}.values()", "dict_values"),
            ("{a: 1, b: 2}.keys()", "dict_keys"),
            ("map(lambda each: each, [a, b])", "map"),
            ("collections.deque([a, b])", "deque"),
        ],
    )
    def test_accounts(self, load_text: Loader, given: str, kind: str) -> None:
        """In the order that they are given in; a set's are in the file's order, so that a reload changes nothing."""
        config = load_text(
            "import collections; a = Office365_Account('b@example.com'); n = 0\n\n\n\n\n\n\n\n\n\n"
            f"b = Office365_Account('a@example.com')\nCredentialServer('cms.sock', {given})"
        )

        assert ["b@example.com", "a@example.com"] == [each.user for each in config.sockets[0].accounts]
        assert [f"12: accounts= is a {kind}, where a list is usual: cms takes what is in it"] == [
            each.partition("cfg:")[2] for each in config.warnings
        ]

    @pytest.mark.parametrize(
        "call",
        [
            "CredentialServer('x', [a], protocols={'IMAP', 'SMTP'})",
            "CredentialServer('x', [a], 0o600, (each for each in ('SMTP', 'IMAP')))",
            "CredentialServer('x', [a], users={'alice', 1001})",
            "CredentialServer('x', [a], groups={'mail': 8}.keys())",
            "PostfixTable('x', {a})",
            "Office365_Account('b@example.com', scopes={'https://outlook.office.com/SMTP.Send'})",
            "Protocol('GRAPH', {'https://graph.microsoft.com/Mail.Send'})",
            "Notify(['true'], events={'locked'})",
            "Notify(word for word in ['true', '-x'])",
            "Proxy('http://p:1', no_proxy=filter(None, ['localhost']))",
            "Vault(key=Command(word for word in ['true', '-x']))",
        ],
    )
    def test_every_list(self, load_text: Loader, call: str) -> None:
        """One rule for each argument that takes a list."""
        warnings = load_text(ACCOUNT + call).warnings

        assert [True] == [":3: " in each for each in warnings if "where a list is usual" in each]

    def test_usual(self, load_text: Loader) -> None:
        """Lists and tuples are no cause for a warning."""
        assert () == load_text(f"{ACCOUNT}CredentialServer('x', (a,), protocols=('SMTP',), users=['alice'])").warnings

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ("Vault(key=Command({'true', '-x'}))", "Command: argv= is a set, which has no order"),
            ("Notify(frozenset({'true', '-x'}))", "Notify: command= is a frozenset, which has no order"),
            ("CredentialServer('x', itertools.repeat(a))", "CredentialServer: accounts= has no end, or more than"),
            (
                "CredentialServer('x', [a], protocols='SMTP')",
                "CredentialServer: protocols= is a list, not a value of type str",
            ),
            ("CredentialServer('x', {a: 1})", "CredentialServer: accounts= is a list, not a value of type dict"),
            ("CredentialServer('x', (n for n in [a, 1]))", "CredentialServer: accounts= takes what Office365_Account"),
            ("CredentialServer('x', (1 / 0 for n in 'x'))", "ZeroDivisionError: division by zero"),
        ],
    )
    def test_refused(self, refuse: Refuser, call: str, message: str) -> None:
        """A command's words have an order; a text and a dict are more likely a mistake; what has no end is not waited for."""
        refusal = refuse(f"import itertools\n{ACCOUNT}{call}")

        assert (4, message) == (refusal.line, refusal.message[: len(message)])


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
        assert "Known: key, old_key" == refuse("Vault(rotation=30)").hint

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
    """A new argument that names a file or a program belongs into the table above. test_account_files.py has accounts_from."""
    named = {
        directive
        for directive, each in namespace(Draft("cms.cfg", MACHINE)).items()
        if callable(each) and {"path", "ca", "command", "argv"} & set(inspect.signature(each).parameters)
    }

    assert named - {"accounts_from"} == {each.partition(" ")[0] for each in PATHS}


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
