"""From a file to a Config: CMS's documented files, the document's fragments, and every fault with its line."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import sys
from pathlib import Path

import pytest
from support.configuration import MACHINE, Loader, Refuser
from support.foreign import HARMLESS, HOSTILE

from cms.config.directives import namespace
from cms.config.draft import Draft
from cms.config.load import load
from cms.config.model import ConfigError
from cms.core.accounts import mail_scopes

MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
RESOURCE = "https://outlook.office.com"

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "configuration.md"
FRAGMENT = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROVIDERS = DOCUMENT.with_name("providers.md")
FRAGMENTS = [found for page in (DOCUMENT, PROVIDERS) for found in FRAGMENT.findall(page.read_text())]
# The lists of accounts that the fragments read, each by the name that the text before it gives.
LIST = re.compile(r"`(\w+\.(csv|toml))`(?:(?!`\w+\.\2`).)*?^```\2\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LISTS = {name: content for name, _, content in LIST.findall(DOCUMENT.read_text())}
PEOPLE = 'CredentialServer("/run/cms/cms.sock", accounts=accounts_from("people.csv"))\n'

# CMS's documentation, literally, with the paths as they are written there.
CMS_SMTP = """\
account = Office365_Account(user="user@domain.com")
Office365("inbox", account)
CredentialServer("/var/run/user/XXX/cms.sock",
                 accounts=[account])
"""
CMS_UMASK = """\
CredentialServer("/home/XX/mail/.cms/exim/cms.sock",
                 accounts=[account],
\t\t\t\t umask=0o666)
"""
CMS_IMAP = """\
account = Office365_Account(user="user@domain.com")
CredentialServer("/var/run/user/XXX/cms.sock",
                 accounts=[account],
                 protocols=["SMTP", "IMAP"])
"""
CMS_FILTER = """\
gmail_md = MailDir("~/mail/gmail")
gmail_cloud = GMail("INBOX", GMail_Account(user="user@domain.com"))

o365_md = MailDir("~/mail/o365")
o365_cloud = Office365("inbox", Office365_Account(user="user@domain.com"))

def direct_message(msg):
    if msg.mailbox is gmail_cloud:
        return gmail_md
    else:
        return o365_md
cfg.direct_message = direct_message
"""


class TestDocumentedFiles:
    def test_smtp(self, load_text: Loader, tmp_path: Path) -> None:
        """CMS's SMTP configuration loads as it is written, and SMTP and IMAP are on."""
        config = load_text(CMS_SMTP.replace("/var/run/user/XXX", str(tmp_path)))

        assert (f"{tmp_path}/cms.sock", ("SMTP",), 0o600) == (
            config.sockets[0].path,
            config.sockets[0].protocols,
            config.sockets[0].mode,
        )
        assert ("user@domain.com", "inbox") == (config.accounts[0].user, config.accounts[0].mailbox)
        assert (mail_scopes(RESOURCE, ["SMTP", "IMAP"]),) == config.grants[0].scope_sets
        assert () == config.warnings

    def test_umask(self, load_text: Loader, tmp_path: Path) -> None:
        """Its umask is permission bits, and its closed folder is no cause for a warning."""
        (tmp_path / "exim").mkdir(mode=0o750)
        text = CMS_SMTP.replace("/var/run/user/XXX", str(tmp_path)) + CMS_UMASK.replace(
            "/home/XX/mail/.cms", str(tmp_path)
        )
        config = load_text(text)

        assert (f"{tmp_path}/exim/cms.sock", 0o666) == (config.sockets[1].path, config.sockets[1].mode)
        assert () == config.warnings

    def test_imap(self, load_text: Loader) -> None:
        """CMS's IMAP configuration serves both protocols by one token."""
        config = load_text(CMS_IMAP)
        both = mail_scopes(RESOURCE, ["SMTP", "IMAP"])

        assert {"SMTP": both, "IMAP": both} == config.accounts[0].scopes
        assert (both,) == config.accounts[0].grant.scope_sets

    def test_filter(self, load_text: Loader) -> None:
        """CMS's example of two clouds and a filter loads; what cms does not do is a warning each, with its line."""
        config = load_text(CMS_FILTER)
        lines = [int(found[1]) for each in config.warnings if (found := re.search(r"cfg:(\d+): ", each))]

        assert [1, 2, 2, 4, 12] == lines
        assert "there is no CredentialServer, so no program can ask for a token" in config.warnings[-1]


class TestDocument:
    @pytest.mark.parametrize("fragment", [*FRAGMENTS, PEOPLE])
    def test_fragment(self, load_text: Loader, tmp_path: Path, fragment: str) -> None:
        """Every fragment of docs/configuration.md and providers.md is a whole configuration that loads without a warning."""
        (tmp_path / "google-client.json").write_text('{"installed": {"client_id": "123.apps", "client_secret": "x"}}')
        (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        for name, content in LISTS.items():
            (tmp_path / name).write_text(content)
        config = load_text(fragment)

        assert () == config.warnings

    def test_everything_is_in_it(self) -> None:
        """Every directive that a file can use, and every argument of each, is in the document."""
        directives = namespace(Draft("cms.cfg", MACHINE))
        named = {
            name
            for directive, each in directives.items()
            if callable(each)
            for name in (directive, *inspect.signature(each).parameters)
        }

        assert set() == {each for each in named - {"_", "__", "shared"} if f"`{each}" not in DOCUMENT.read_text()}


class TestAccountsAndGrants:
    def test_shared_mailbox(self, load_text: Loader) -> None:
        """A shared mailbox is another account over the same sign-in, and the token is for what both need."""
        config = load_text(
            """\
            me = Office365_Account("me@example.com")
            shared = Office365_Account("shared@example.com", sign_in_as="Me@Example.com")
            CredentialServer("smtp.sock", [me])
            CredentialServer("imap.sock", [shared], protocols=["IMAP"])
            """
        )
        both = mail_scopes(RESOURCE, ["SMTP", "IMAP"])
        me, shared = config.accounts

        assert (("me@example.com", "shared@example.com"), ({"SMTP": both}, {"IMAP": both})) == (
            (me.user, shared.user),
            (me.scopes, shared.scopes),
        )
        assert me.grant == shared.grant
        assert ((both,), "me@example.com") == (me.grant.scope_sets, me.grant.login)
        assert (me.grant,) == config.grants

    def test_second_resource(self, load_text: Loader) -> None:
        """Accounts of one sign-in with different scopes are one Grant with two scope sets."""
        config = load_text(
            """\
            me = Office365_Account("me@example.com")
            graph = Office365_Account("shared@example.com", sign_in_as="me@example.com",
                                      scopes=["https://graph.microsoft.com/SMTP.Send"])
            CredentialServer("cms.sock", [me, graph])
            """
        )

        assert (mail_scopes(RESOURCE, ["SMTP"]), ("https://graph.microsoft.com/SMTP.Send",)) == config.grants[
            0
        ].scope_sets
        assert {"SMTP": ("https://graph.microsoft.com/SMTP.Send",)} == config.accounts[1].scopes

    def test_two_sockets(self, load_text: Loader) -> None:
        """An account's protocols are those of all sockets that serve it, and the sockets hold that very account."""
        config = load_text(
            """\
            a = Office365_Account("a@example.com")
            CredentialServer("one.sock", [a], protocols=["POP"])
            CredentialServer("two.sock", [a])
            """
        )

        assert ["SMTP", "POP"] == list(config.accounts[0].scopes)
        assert [True, True] == [each.accounts[0] is config.accounts[0] for each in config.sockets]

    @pytest.mark.parametrize(
        ("argument", "name"),
        [
            ("prompt='login'", "prompt"),
            ("refresh_before=600", "refresh_before"),
            ("client_secret=File('s')", "client_secret"),
        ],
    )
    def test_contradiction(self, refuse: Refuser, argument: str, name: str) -> None:
        """Two accounts that are one sign-in may not say two things of it: both lines are named."""
        refusal = refuse(
            f"""\
            Office365_Account("me@example.com", client_id="{MY_ID}")

            Office365_Account("shared@example.com", client_id="{MY_ID}", sign_in_as="me@example.com", {argument})
            """
        )

        assert (3, f"{name}= is not what it is in line 1, and both accounts are one sign-in") == (
            refusal.line,
            refusal.message,
        )

    def test_idle_account(self, load_text: Loader) -> None:
        """An account that nothing serves is left out with a warning."""
        config = load_text(
            """\
            a = Office365_Account("a@example.com")
            b = Office365_Account("b@example.com")
            c = Office365_Account()
            CredentialServer("cms.sock", [a])
            """
        )

        assert ["a@example.com"] == [each.user for each in config.accounts]
        assert [True, True] == [
            ":2: no CredentialServer serves b@example.com" in config.warnings[0],
            ":3: no CredentialServer serves this account" in config.warnings[1],
        ]

    def test_unserved(self, load_text: Loader) -> None:
        """cms knows accounts that no socket or file serves: `cms prune` leaves their sign-ins."""
        text = """\
            a = Office365_Account("a@example.com")
            b = Office365_Account("b@example.com")
            CredentialServer("cms.sock", [a])
            """
        config = load_text(text)
        both = load_text(text.replace("[a]", "[a, b]"))

        assert (frozenset({both.accounts[1].grant.key}), frozenset()) == (config.unserved, both.unserved)

    def test_no_account(self, refuse: Refuser) -> None:
        """A file without an account is refused: one that was emptied by accident must not empty a running daemon."""
        refusal = refuse("# nothing\n")

        assert (None, "it names no account") == (refusal.line, refusal.message)
        assert re.fullmatch(
            r'.*/cms.cfg: it names no account. Begin with account = Office365_Account\(user="..."\)', str(refusal)
        )


class TestFaults:
    def test_nearest_directive(self, refuse: Refuser) -> None:
        """A misspelt directive is answered with file, line and the nearest one."""
        refusal = refuse("Office365_Acount('a@example.com')")

        assert re.fullmatch(
            r".*/cms.cfg:1: there is no directive Office365_Acount. Did you mean Office365_Account\?", str(refusal)
        )

    def test_nearest_name(self, refuse: Refuser) -> None:
        """A misspelt name of the file's own is answered with the nearest of those."""
        refusal = refuse("account = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [acount])")

        assert (2, "the name acount means nothing here", "Did you mean account?") == (
            refusal.line,
            refusal.message,
            refusal.hint,
        )

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("\nx = (", 2, "this is not Python: '(' was never closed"),
            ("x = 0600", 1, "this is not Python: leading zeros in decimal integer literals are not permitted"),
            ("\nx = 1 / 0", 2, "ZeroDivisionError: division by zero"),
            (
                "Office365_Account('a@x').token = 1",
                1,
                "dataclasses.FrozenInstanceError: cannot assign to field 'token'",
            ),
            ("import sys\nsys.exit(0)", 2, "it ends the program here, which a configuration may not do"),
            ("\nraise KeyboardInterrupt", 2, "it was interrupted here"),
            ("x = 'a' * 10 ** 15", 1, "MemoryError"),
            ("class X(BaseException): pass\nraise X('a')", 2, "cms_configuration.X: a"),
            ("import no_such_module", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
            ("\nraise ValueError", 2, "ValueError"),
            ("\nraise ValueError('a\\n   b')", 2, "ValueError: a b"),
            ("def f():\n    g()\ndef g():\n    {}['k']\nf()", 4, "KeyError: 'k'"),
            ("import json\njson.loads('{')", 2, "json.decoder.JSONDecodeError: Expecting property name"),
            ("\nexec('x = (')", 2, "this is not Python: '(' was never closed"),
            ("raise NameError('one without a name')", 1, "NameError: one without a name"),
            ("f = lambda: f()\nf()", 1, "RecursionError: maximum recursion depth exceeded"),
        ],
    )
    def test_python_errors(self, refuse: Refuser, text: str, line: int, message: str) -> None:
        """What goes wrong in the file's own Python is one sentence with its line, and no traceback."""
        refusal = refuse(text)

        assert (line, message) == (refusal.line, refusal.message[: len(message)])
        assert (None, None, 1) == (refusal.__cause__, refusal.__context__, len(str(refusal).splitlines()))

    def test_name_error_elsewhere(self, refuse: Refuser) -> None:
        """A name that another program misses is not told as one of the file's."""
        refusal = refuse("import types\ntypes.FunctionType(compile('Missing', 'elsewhere', 'eval'), {})()")

        assert (2, "NameError: name 'Missing' is not defined") == (refusal.line, refusal.message)

    def test_long_error(self, refuse: Refuser) -> None:
        """An exception with a long text is cut."""
        assert 203 == len(refuse("raise ValueError('x' * 1000)").message)

    @pytest.mark.parametrize("source", [b"x = '\xff'", b"x = 1\0"])
    def test_no_text(self, tmp_path: Path, source: bytes) -> None:
        """Bytes that are no text are refused as any other fault is."""
        (tmp_path / "cms.cfg").write_bytes(source)

        with pytest.raises(ConfigError, match=r"Python|null bytes"):
            load(str(tmp_path / "cms.cfg"), system=MACHINE)

    def test_missing(self, tmp_path: Path) -> None:
        """A missing file is answered with the command that writes one."""
        with pytest.raises(ConfigError) as caught:
            load(str(tmp_path / "none.cfg"))

        assert f"{tmp_path}/none.cfg: there is no such file. `cms init` writes one" == str(caught.value)

    def test_unreadable(self, tmp_path: Path) -> None:
        """A file that cannot be read says why."""
        (tmp_path / "cms.cfg").symlink_to("cms.cfg")

        with pytest.raises(ConfigError, match=r"cms.cfg: it cannot be read: Too many levels of symbolic links$"):
            load(str(tmp_path / "cms.cfg"))

    def test_untrusted(self, tmp_path: Path) -> None:
        """A file that others can write is refused before any of it runs."""
        ran = tmp_path / "ran"
        (tmp_path / "cms.cfg").write_text(f"open({str(ran)!r}, 'w')")
        (tmp_path / "cms.cfg").chmod(0o666)

        with pytest.raises(ConfigError, match=r"the file can be written by everyone.*`chmod go-w"):
            load(str(tmp_path / "cms.cfg"))
        assert not ran.exists()


class TestLoads:
    def test_once(self, load_text: Loader, tmp_path: Path) -> None:
        """The file runs once per load."""
        load_text(f"with open({str(tmp_path / 'ran')!r}, 'a') as file:\n    file.write('x')\n" + CMS_IMAP)

        assert "x" == (tmp_path / "ran").read_text()

    def test_nothing_is_left(self, load_text: Loader, refuse: Refuser) -> None:
        """A load knows nothing of the one before, whether that failed or not."""
        refuse(f"{CMS_IMAP}\nVault('keyring')\nleft = 1\n1 / 0")

        assert load_text(f"{CMS_IMAP}\nVault('keyring')") == load_text(f"{CMS_IMAP}\nVault('keyring')")
        assert "the name left means nothing here" == refuse("left").message

    def test_functions_and_loops(self, load_text: Loader) -> None:
        """A file may use all of Python: thirty mailboxes are three lines."""
        config = load_text(
            """\
            accounts = [Office365_Account(f"box{n}@example.com", sign_in_as="me@example.com") for n in range(30)]
            CredentialServer("cms.sock", accounts)
            """
        )

        assert (30, 1) == (len(config.accounts), len(config.grants))

    def test_line_in_a_function(self, load_text: Loader) -> None:
        """A directive inside a function of the file's is known by its own line."""
        config = load_text(
            """\
            def serve(account):
                CredentialServer("cms.sock", [account])

            serve(Office365_Account("a@example.com"))
            """
        )

        assert 2 == config.sockets[0].line

    def test_relative_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A configuration named by a relative path has its neighbours where it is."""
        (tmp_path / "cms.cfg").write_text("CredentialServer('cms.sock', [Office365_Account('a@example.com')])")
        monkeypatch.chdir(tmp_path)

        assert os.path.realpath(tmp_path / "cms.sock") == load("cms.cfg", system=MACHINE).sockets[0].path


ONE_SOCKET = """\
each = [Office365_Account(f"u{{n}}@example.com") for n in range({n})]
CredentialServer("/run/cms.sock", each)
"""
A_SOCKET_EACH = """\
for n in range({n}):
    CredentialServer(f"/run/{{n}}.sock", [Office365_Account(f"u{{n}}@example.com")])
"""
A_FILE_EACH = """\
for n in range({n}):
    TokenFile(f"/run/user/1000/{{n}}", Office365_Account(f"u{{n}}@example.com"), "SMTP")
"""
ONE_SIGN_IN = """\
each = [Office365_Account(f"u{{n}}@example.com", sign_in_as="me@example.com") for n in range({n})]
CredentialServer("/run/cms.sock", each)
"""
UNSERVED = """\
for n in range({n}):
    Office365_Account(f"u{{n}}@example.com")
CredentialServer("/run/cms.sock", [Office365_Account("last@example.com")])
"""
WITHOUT_USER = """\
each = [Office365_Account(client_id=f"{{n:08}}-1111-2222-3333-444455556666") for n in range({n})]
CredentialServer("/run/cms.sock", each)
"""


@pytest.mark.parametrize("text", [ONE_SOCKET, A_SOCKET_EACH, A_FILE_EACH, ONE_SIGN_IN, UNSERVED, WITHOUT_USER])
def test_many_accounts(load_text: Loader, text: str) -> None:
    """Twice as many accounts are twice as much work, whatever there is of each: counted in calls of functions."""

    def calls(number: int) -> int:
        counted = itertools.count()
        sys.setprofile(lambda _frame, event, _argument: next(counted) if event in ("call", "c_call") else None)
        try:
            load_text(text.format(n=number))
        finally:
            sys.setprofile(None)
        return next(counted)

    calls(1)
    first, second, third = calls(50), calls(100), calls(200)

    assert third - second < 2.2 * (second - first)


def test_an_exception_of_the_file_moves_no_cursor(load_text: Loader) -> None:
    """Its text becomes one line of printable characters."""
    with pytest.raises(ConfigError) as caught:
        load_text(f"raise ValueError({HOSTILE!r} + chr(10) + 'next')")

    assert f"ValueError: {HARMLESS} next" in caught.value.message
