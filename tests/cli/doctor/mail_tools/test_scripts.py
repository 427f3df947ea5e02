"""Startup files, scripts and units are read for what they ask cms, in shell and in Python."""

from __future__ import annotations

import pytest
from support.contrib import ROOT
from support.mail_files import HOME, commands, machine

from cms.cli.doctor.mail_tools import python_code
from cms.cli.doctor.mail_tools.found import UNKNOWN, Command, Place, Request, TokenPath, Use, Variable
from cms.cli.doctor.mail_tools.scripts import uses


def read(**files: str) -> list[Use]:
    return list(uses(machine(files, {"XDG_RUNTIME_DIR": "/run/user/7"})))


def sockets(found: list[Use]) -> list[tuple[str, int, str]]:
    return [(each.place.path, each.place.line, each.socket) for each in found if isinstance(each, Variable)]


def test_the_socket_that_is_set_for_all() -> None:
    """In a startup file, in one that it sources, in the environment's own files, in a unit."""
    files = {
        ".profile": "export CMS_SOCK=/a;\n. ~/.more # c\n. /etc/bash.bashrc\n. ~/.none\n",
        ".more": "export CMS_SOCK='/b'\n",
        "/etc/profile.d/cms.sh": "export CMS_SOCK=/f\n",
        ".bashrc": "CMS_SOCK=/not-exported\n",
        "/etc/environment": 'CMS_SOCK="/c"\n',
        ".config/environment.d/cms.conf": "CMS_SOCK=${XDG_RUNTIME_DIR}/d\n",
        ".config/environment.d/README": "CMS_SOCK=/not-read\n",
        ".config/systemd/user/mail.service": '[Service]\nEnvironment=A=b "CMS_SOCK=%t/e"\n',
    }

    assert [
        ("/etc/profile.d/cms.sh", 1, "/f"),
        (f"{HOME}/.profile", 1, "/a"),
        (f"{HOME}/.more", 1, "/b"),
        ("/etc/environment", 1, "/c"),
        (f"{HOME}/.config/environment.d/cms.conf", 1, "/run/user/7/d"),
        (f"{HOME}/.config/systemd/user/mail.service", 2, "/run/user/7/e"),
    ] == sockets(read(**files))


def test_scripts_of_a_person() -> None:
    """By their first line: for a shell or Python, in ~/bin and ~/.local/bin; others are not looked into."""
    with_token = (ROOT / "contrib" / "with-token.sh").read_text()
    files = {
        "bin/curl-mail": f"#!/bin/sh\n{with_token}",
        "bin/ask": "#! /usr/bin/env bash\nprintf 'IMAP,token u@x\\n' | nc -U /s\n",
        ".local/bin/sync": "#!/bin/dash\nimapsync --oauthaccesstoken1 ~/t\n",
        ".local/bin/send": "#!/usr/bin/env python3\nimport cms_oauth\ncms_oauth.token('u@x')\n",
        "bin/perl": "#!/usr/bin/perl\nsystem 'cms-oauth --x';\n",
        "bin/binary": "\x7fELF cms-oauth",
        "elsewhere/x": "#!/bin/sh\ncms-oauth\n",
    }
    found = read(**files)

    assert [("ask", 2), ("curl-mail", 7), ("send", 3), ("sync", 2)] == sorted(
        (each.place.path.rpartition("/")[2], each.place.line) for each in found
    )
    assert [f"{HOME}/t"] == [each.path for each in found if isinstance(each, TokenPath)]
    assert ["IMAP,token u@x"] == [each.text for each in found if isinstance(each, Request)]


def test_units() -> None:
    """What they start, with the environment that they set; words are quoted as systemd quotes."""
    unit = (
        "[Service]\nEnvironment=CMS_SOCK=/x\nExecStartPre=-cms-oauth '--user=u@x'\n"
        "ExecStart=sh -c 'cms-oauth --cms_sock=%h/%%'\nExecStop=it's\nType=oneshot\n"
        "ExecReload=-/usr/bin/env \\\n  # in between\n cms-oauth \\\n  --proto=POP\n"
    )
    found = read(**{".config/systemd/user/a.service": unit})

    assert [(3, ("--user=u@x",), "/x"), (4, (f"--cms_sock={HOME}/%",), "/x"), (7, ("--proto=POP",), "/x")] == [
        (each.place.line, each.words, each.socket) for each in found if isinstance(each, Command)
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import cms_oauth\ncms_oauth.token('u@x', protocol='IMAP')", "--user=u@x --proto=IMAP"),
        ("import cms_oauth as c\nc.token('u@x', 'POP', socket='/s')", "--user=u@x --proto=POP --cms_sock=/s"),
        ("from cms_oauth import token as t\nt(user=name)", f"--user={UNKNOWN}"),
        ("from cms_oauth import Login\nLogin('u@x', mechanism='OAUTHBEARER')", f"--proto={UNKNOWN} --user=u@x"),
        ("import cms_oauth\ncms_oauth.token('', rejected=t)", ""),
        ("import subprocess\nsubprocess.run(['cms-oauth', f'--user={u}@x', *more])", f"--user={UNKNOWN}@x {UNKNOWN}"),
        ("CMD = 'cms-oauth --user=u@x'\nx = check_output(CMD, shell=True)", "--user=u@x"),
        ("os.system('CMS_SOCK=/x cms-oauth --user=' + user)", f"--user={UNKNOWN}"),
        ("asyncio.create_subprocess_shell(cmd='x')\nrun(('cms-oauth',))", ""),
    ],
)
def test_python(code: str, words: str) -> None:
    """The library's calls as the command that does the same; runs of the command as words or as a line."""
    assert [words] == [each for _, each in commands(python_code.asks(code, Place("python", "/f", 1), machine({})))]


@pytest.mark.parametrize(
    "code",
    [
        "print('cms-oauth --user=u@x')",
        "'''cms-oauth --user=u@x'''",
        "# cms-oauth",
        "def token(): pass\ntoken('u@x')",
        "cms_oauth.token(",
        "x = []\nos.popen()\nos.popen(1)",
        "\0",
        "(" * 10_000,
        f"os.popen({'+'.join(['x'] * 2_000)})",
        f"os.popen(x{'.y' * 2_000})",
    ],
)
def test_python_that_asks_nothing(code: str) -> None:
    """Text that is no command, a function of another library, code that does not compile."""
    assert [] == python_code.asks(code, Place("python", "/f", 1), machine({}))
