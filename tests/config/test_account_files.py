"""Accounts from a list: CSV and TOML, what a line of them may say, and every fault with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.configuration import Loader, Refuser

from cms.config import child
from cms.core.accounts import Source, mail_scopes

RESOURCE = "https://outlook.office.com"
MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
SECRET = "hunter2-Zq8Q~example"

BOXES = "CredentialServer('cms.sock', accounts_from('boxes.csv'), protocols=['SMTP', 'IMAP'])"
TABLES = BOXES.replace(".csv", ".toml")


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return tmp_path / "boxes.csv"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return tmp_path / "boxes.toml"


class TestCsv:
    def test_two_hundred(self, load_text: Loader, boxes: Path) -> None:
        """Two hundred mailboxes are two hundred lines of CSV and one of Python; what they share is said there once."""
        lines = [f"box{number}@example.com\n" for number in range(200)]
        boxes.write_text("".join(["user\n", *lines]))
        config = load_text(
            f"CredentialServer('cms.sock', accounts_from('boxes.csv', sign_in='app', tenant='example.com',"
            f" client_id='{MY_ID}', certificate=File('app.pem')))"
        )

        assert [line.strip() for line in lines] == [each.user for each in config.accounts]
        assert (1, "app", ()) == (len(config.grants), config.grants[0].sign_in, config.warnings)

    def test_columns(self, load_text: Loader, boxes: Path) -> None:
        """A column is an argument of Office365_Account, of the kind that this argument has; an empty field is none."""
        boxes.write_text(
            "user, sign_in_as, protocols, preflight, refresh_before, scopes\n"
            "me@example.com,,,,,\n"
            "\n"
            "desk@example.com, me@example.com, IMAP, FALSE, ,\n"
            ",,,,,\n"
            f"web@example.com,,SMTP IMAP,true,1200,{RESOURCE}/IMAP.AccessAsUser.All {RESOURCE}/SMTP.Send\n"
        )
        me, desk, web = load_text(BOXES).accounts

        assert ("me@example.com", {"SMTP", "IMAP"}, True) == (me.user, set(me.scopes), me.preflight)
        assert (me.grant, {"IMAP"}, False) == (desk.grant, set(desk.scopes), desk.preflight)
        assert ((tuple(sorted(mail_scopes(RESOURCE, ["IMAP", "SMTP"]))),), 1200.0) == (
            web.grant.scope_sets,
            web.grant.refresh_before,
        )

    def test_the_line_wins(self, load_text: Loader, boxes: Path) -> None:
        """What a line says counts for its account, and the call's argument for all others."""
        boxes.write_text("user,sign_in\na@example.com,\nb@example.com,paste\n")
        config = load_text(
            "CredentialServer('cms.sock', accounts_from('boxes.csv', sign_in='device', client_id='thunderbird'))"
        )

        assert ["device", "paste"] == [each.grant.sign_in for each in config.accounts]

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_spreadsheets(self, load_text: Loader, boxes: Path, separator: str) -> None:
        """A file as spreadsheets write it: a byte order mark, CR LF, quotes, and a semicolon where a comma is a decimal's."""
        lines = ("user,sign_in_as", '"Sales <sales@example.com>",me@example.com')
        boxes.write_bytes("".join(f"\ufeff{lines[0]}\r\n{lines[1]}\r\n").replace(",", separator).encode())
        (account,) = load_text(BOXES).accounts

        assert ("sales@example.com", "me@example.com") == (account.user, account.grant.login)

    def test_secrets(self, load_text: Loader, boxes: Path, tmp_path: Path) -> None:
        """A secret is named by its place; a relative path starts at the configuration's folder."""
        boxes.write_text(
            "user,client_id,client_secret,certificate\n"
            f"a@example.com,{MY_ID},credential:app,\n"
            f"b@example.com,{MY_ID.replace('0a', '0b')},,file:app.pem\n"
        )
        a, b = load_text(BOXES).accounts

        assert Source("credential", ("app",)) == a.grant.client_secret
        assert Source("file", (str(tmp_path / "app.pem"),)) == b.grant.certificate

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("user\na@example.com\n\nb.example.com\n", 4, "user= is an address such as user@example.com"),
            ("user,sign_in\na@example.com,brwoser\n", 2, "sign_in= is one of"),
            ("user,preflight\na@example.com,maybe\n", 2, "preflight= is True or False"),
            ("user,refresh_before\na@example.com,soon\n", 2, "refresh_before= is a number of seconds"),
            (f"user,refresh_before\na@example.com,{'9' * 5000}\n", 2, "refresh_before= is a number of seconds"),
            ("user,protocols\na@example.com,SMPT\n", 2, "protocols= is one of SMTP, IMAP, POP"),
            (f"user,client_secret\na@example.com,{SECRET}\n", 2, "client_secret= takes no literal secret"),
            ("user,sign_in_as\n,me@example.com\n", 2, "user= is missing"),
            (
                "user\na@example.com\nb@example.com\nA@example.com\n",
                4,
                "a second account for A@example.com; the first is in line 2",
            ),
            ("user,sign_in\na@example.com\n", 2, "the number of fields is 1, and that of the columns 2"),
            ("user\na@example.com,paste\n", 2, "the number of fields is 2, and that of the columns 1"),
            ('user,prompt\n"a@exam\nple.com",\nb@example.com,none\n', 2, "user= is empty or has control"),
            ('user\na@example.com\n"b@example.com\n', 3, "this is not CSV: unexpected end of data"),
            ("user\na@example.com\n\xff", 3, "this is not UTF-8"),
            ("user,usr\n", 1, "the name of column 2 is no argument of an account"),
            (f"{SECRET}\n", 1, "the name of column 1 is no argument of an account"),
            ("\nsign_in\n", 2, "there is no column user"),
            ("user,sign_in,sign_in\n", 1, "a column is there twice"),
        ],
    )
    def test_faults(self, refuse: Refuser, boxes: Path, text: str, line: int, message: str) -> None:
        """A fault names the file, its line and the argument; what may be a secret is not quoted."""
        boxes.write_text(text, encoding="latin-1")
        fault = refuse(BOXES)

        assert (str(boxes), line) == (fault.file, fault.line)
        assert fault.message.startswith(message)
        assert SECRET not in str(fault)

    def test_warnings(self, load_text: Loader, boxes: Path) -> None:
        """A warning about an account names its line, too."""
        boxes.write_text("user,cloud\na@example.com,\nb@outlook.com,gcc-high\n")
        config = load_text(
            f"CredentialServer('cms.sock', accounts_from('boxes.csv', client_id='{MY_ID}', protocols=['IMAP']))"
        )

        assert [f"{boxes}:3: ", f"{boxes}:2: ", f"{boxes}:3: "] == [
            found[0] for each in config.warnings if (found := re.match(r".*boxes\.csv:\d+: ", each))
        ]


class TestToml:
    def test_tables(self, load_text: Loader, tables: Path, tmp_path: Path) -> None:
        """Each [[account]] is one, with the arguments as TOML has them."""
        tables.write_text(
            f"""\
            # The shop.
            [[account]]
            user = "sales@example.com"
            protocols = [
                "SMTP", "GRAPH",
            ]
            preflight = false
            client_id = "{MY_ID}"
            client_secret = "file:app.secret"

            [["account"]] # The other one.
            user = "jobs@example.com"
            refresh_before = 600
            """
        )
        sales, jobs = load_text(
            "graph = Protocol('GRAPH', ['https://graph.microsoft.com/User.Read'])\n"
            "CredentialServer('cms.sock', accounts_from('boxes.toml'), protocols=['SMTP', 'IMAP', graph])"
        ).accounts

        assert ({"SMTP", "GRAPH"}, False) == (set(sales.scopes), sales.preflight)
        assert Source("file", (str(tmp_path / "app.secret"),)) == sales.grant.client_secret
        assert ({"SMTP", "IMAP", "GRAPH"}, 600.0) == (set(jobs.scopes), jobs.grant.refresh_before)

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ('[[account]]\nuser = "a@example.com"\n\n[[account]]\nuser = "b"\n', 4, "user= is an address"),
            ('[[account]]\nusr = "a@example.com"\n', 1, "user= is missing"),
            ('[[account]]\nuser = "a@example.com"\nsing_in = "paste"\n', 1, "there is no argument sing_in="),
            ('[[account]]\nuser = "a@example.com"\nprotocols = "SMTP"\n', 1, "protocols= is a list"),
            ('[[account]]\nuser = "a@example.com"\nprotocols = [1]\n', 1, "protocols= is a string"),
            ('[[account]]\nuser = "a@example.com"\nprotocols = []\n', 1, "protocols= is an empty list"),
            (
                f'[[account]]\nuser = "a@example.com"\nclient_secret = "{SECRET}"\n',
                1,
                "client_secret= takes no literal",
            ),
            ("[[account]]\nuser = a\n", 2, "this is not TOML: Invalid value"),
            ("[[account]]\nuser =", 2, "this is not TOML: Invalid value"),
            (f"[[account]]\nuser = {'[' * 4000}", 1, "this is not TOML: it is nested too deeply"),
            (f"[[account]]\nlifetime = {'9' * 5000}", 1, "this is not TOML: Exceeds the limit"),
            (
                '\n\ntenant = "example.com"\n[[account]]\nuser = "a@example.com"\n',
                3,
                "a list of accounts has one table",
            ),
            ('[[acount]]\nuser = "a@example.com"\n', 1, "a list of accounts has one table"),
            ('# Boxes.\naccount = [{user = "a@example.com"}]\n', 2, "a list of accounts has one table"),
            ('\n[account]\nuser = "a@example.com"\n', 2, "a list of accounts has one table"),
            ('a."account" = 1\n', 1, "a list of accounts has one table"),
        ],
    )
    def test_faults(self, refuse: Refuser, tables: Path, text: str, line: int, message: str) -> None:
        """A fault names the file and a line: that of the table, or the one that is no TOML."""
        tables.write_text(text)
        fault = refuse(TABLES)

        assert (str(tables), line) == (fault.file, fault.line)
        assert fault.message.startswith(message)
        assert SECRET not in str(fault)


class TestFiles:
    def test_others_can_write_it(self, refuse: Refuser, boxes: Path) -> None:
        """The list is trusted as the configuration is: not if others can write it."""
        boxes.write_text("user\na@example.com\n")
        boxes.chmod(0o666)
        fault = refuse(f"\n{BOXES}")

        assert (str(boxes.with_name("cms.cfg")), 2) == (fault.file, fault.line)
        assert (
            f"accounts_from: {boxes} is not read: the file can be written by everyone, who could change which accounts cms"
            " has"
        ) == fault.message
        assert f"`chmod go-w {boxes}`" == fault.hint

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ("accounts_from('boxes.csv')", "/boxes.csv cannot be read: No such file or directory"),
            ("accounts_from('boxes.ods')", "path= is a file whose name ends with .csv or .toml"),
            ("accounts_from('empty.csv')", "there is no account in"),
            ("accounts_from('cms.toml')", "there is no account in"),
            ("accounts_from('%t/boxes.csv')", "path= cannot be used: only systemd replaces %t"),
            ("accounts_from()", "missing a required argument: 'path'"),
            ("accounts_from('empty.csv', tennant='example.com')", "accounts_from has no argument tennant="),
            ("accounts_from('empty.csv', user='a@example.com')", "accounts_from has no argument user="),
        ],
    )
    def test_calls(self, refuse: Refuser, tmp_path: Path, call: str, message: str) -> None:
        """What is wrong with the call, or with the file as a whole, is told of the configuration's line."""
        (tmp_path / "empty.csv").write_text("\n")
        (tmp_path / "cms.toml").write_text("")
        fault = refuse(f"\nboxes = {call}")

        assert (str(tmp_path / "cms.cfg"), 2) == (fault.file, fault.line)
        assert message in fault.message
        assert fault.message.startswith("accounts_from")

    def test_paths(self, load_text: Loader, boxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A path is as in all directives: with variables, and relative to the configuration's folder."""
        boxes.write_text("user\na@example.com\n")
        monkeypatch.setenv("HERE", str(boxes.parent))
        named = (f"'{path}'" for path in ("$HERE/boxes.csv", "./x/../boxes.CSV"))
        boxes.with_name("boxes.CSV").symlink_to(boxes)

        for each in named:
            assert ["a@example.com"] == [found.user for found in load_text(BOXES.replace("'boxes.csv'", each)).accounts]

    def test_nothing_is_written_there(self, refuse: Refuser, boxes: Path) -> None:
        """cms writes no file over a list that it reads."""
        boxes.write_text("user\na@example.com\n")
        fault = refuse(f"{BOXES}\nAudit('boxes.csv')")

        assert f"Audit: {boxes} is the list of accounts of line 1, which cms reads" == fault.message

    def test_between_files(self, refuse: Refuser, boxes: Path) -> None:
        """If a list and the configuration contradict each other, the fault names both places."""
        boxes.write_text("user,sign_in_as,prompt\ndesk@example.com,me@example.com,login\nme@example.com,,\n")
        agreement = refuse(f"me = Office365_Account('me2@example.com', sign_in_as='me@example.com')\n{BOXES}")
        twice = refuse(f"me = Office365_Account('me@example.com', prompt='login')\n{BOXES}")

        assert (str(boxes), 2) == (agreement.file, agreement.line)
        assert f"prompt= is not what it is in {boxes.with_name('cms.cfg')}:1, and" in agreement.message
        assert f"a second account for me@example.com; the first is in {boxes.with_name('cms.cfg')}:1" == twice.message

    def test_what_the_file_itself_says(self, refuse: Refuser, boxes: Path) -> None:
        """After a list was read, places are those of the configuration again."""
        boxes.write_text("user\na@example.com\n")

        assert ("cms.cfg", 2) == (
            (fault := refuse(f"{BOXES}\nOffice365_Account('b')")).file.rpartition("/")[2],
            fault.line,
        )

    def test_again(self, tmp_path: Path, boxes: Path) -> None:
        """Each load reads the list, as `cms reload` does, and the process of the configuration sends what is in it."""
        (tmp_path / "cms.cfg").write_text(BOXES)
        boxes.write_text("user\na@example.com\n")
        before = child.load(str(tmp_path / "cms.cfg"))
        boxes.write_text("user\na@example.com\nb@example.com\n")
        after = child.load(str(tmp_path / "cms.cfg"))

        assert ["a@example.com"] == [each.user for each in before.accounts]
        assert ["a@example.com", "b@example.com"] == [each.user for each in after.accounts]


class TestProtocols:
    def test_a_socket_serves_those_of_both(self, load_text: Loader) -> None:
        """An account's protocols limit those of its sockets, and add none."""
        a, b = load_text(
            """\
            a = Office365_Account("a@example.com", protocols=["IMAP", "POP"])
            b = Office365_Account("b@example.com")
            CredentialServer("cms.sock", [a, b], protocols=["SMTP", "IMAP"])
            """
        ).accounts

        assert ({"IMAP"}, {"SMTP", "IMAP"}) == (set(a.scopes), set(b.scopes))

    def test_none_in_common(self, load_text: Loader) -> None:
        """An account that no socket serves with any of its protocols is warned about."""
        config = load_text("CredentialServer('cms.sock', [Office365_Account('a@example.com', protocols=['POP'])])")

        assert () == config.accounts
        assert "no CredentialServer serves a@example.com" in config.warnings[0]

    def test_a_postfix_table(self, refuse: Refuser) -> None:
        """The login of a whole host is one with SMTP."""
        fault = refuse(
            "a = Office365_Account('a@example.com', protocols=['POP'])\nPostfixTable('t.sock', [a], default=a)"
        )

        assert "PostfixTable: default= has no SMTP among its own protocols=" == fault.message

    def test_a_token_file(self, refuse: Refuser) -> None:
        """A token file has one of the account's protocols."""
        fault = refuse("a = Office365_Account('a@example.com', protocols=['POP'])\nTokenFile('/run/t', a, 'SMTP')")

        assert "TokenFile: protocol= is not one of the account's own protocols=" == fault.message


class TestProviders:
    def test_a_column_names_the_provider(self, load_text: Loader, boxes: Path) -> None:
        """Accounts of several providers are in one list; each line takes the arguments of its provider's directive."""
        (boxes.parent / "google.json").write_text('{"installed": {"client_id": "123.apps", "client_secret": "x"}}')
        boxes.write_text(
            "user,provider,client,client_id,issuer,lifetime\n"
            "me@example.com,,,,,\n"
            "you@example.com,microsoft,,thunderbird,,\n"
            "ann@gmail.com,google,file:google.json,,,\n"
            "ann@fastmail.com,fastmail,,,,600\n"
            "ann@corp.example,,,cms,https://sso.corp.example,\n"
            "ben@corp.example,oauth2,,cms,https://sso.corp.example,\n"
        )
        found = load_text(BOXES).accounts

        assert ["microsoft", "microsoft", "google", "fastmail", "oauth2", "oauth2"] == [
            each.grant.provider for each in found
        ]
        assert ["123.apps", "dynamic", "cms", "cms"] == [each.grant.client_id for each in found[2:]]
        assert [3600.0, 600.0, 3600.0, 3600.0] == [
            each.grant.server.lifetime for each in found[2:] if each.grant.server
        ]

    def test_for_all_of_a_file(self, load_text: Loader, boxes: Path) -> None:
        """The mailboxes of a Google Workspace, each with its own token of one service account."""
        boxes.write_text("user\ndesk@corp.example\nsales@corp.example\n")
        config = load_text(
            "CredentialServer('cms.sock', accounts_from('boxes.csv', provider='google', service_account=File('r.json')))"
        )

        assert 2 == len(config.grants)
        assert {"app"} == {each.sign_in for each in config.grants}

    def test_every_mailbox_of_each_domain(self, load_text: Loader, boxes: Path) -> None:
        """Domains are lines, each with its own limit."""
        boxes.write_text("user,max_mailboxes\n*@corp.example,50\n*@corp.test,\n")
        config = load_text(
            "boxes = accounts_from('boxes.csv', provider='google', service_account=File('r.json'))\n"
            "CredentialServer('cms.sock', boxes, users=[])"
        )

        assert [("corp.example", 50), ("corp.test", 1000)] == [
            (each.domain, each.max_mailboxes) for each in config.accounts
        ]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("a@gmail.com,google,,", "this account needs client= or service_account="),
            ("a@gmail.com,google,,common", "tenant= is not an argument of such an account"),
            ("a@fastmail.com,fastmail,,common", "tenant= is not an argument of such an account"),
            ("a@x.com,,file:x.json,", "client= is not an argument of such an account"),
            ("a@x.com,gogle,,", "provider= is one of google"),
            (f"a@gmail.com,google,{SECRET},", "client= takes no literal secret"),
        ],
    )
    def test_refused(self, refuse: Refuser, boxes: Path, line: str, message: str) -> None:
        """A mistake is told with the line of the list."""
        boxes.write_text(f"user,provider,client,tenant\n{line}\n")
        refusal = refuse(BOXES)

        assert message in refusal.message
        assert (str(boxes), 2) == (refusal.file, refusal.line)
