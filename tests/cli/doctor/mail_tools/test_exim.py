"""exim's configuration is read as `exim4 -bP` shows it: macros, conditions, inclusions, continuations, expansions."""

from __future__ import annotations

import pytest
from support.mail_files import faults, machine, unread

from cms.cli.doctor.mail_tools.exim import uses
from cms.cli.doctor.mail_tools.found import UNKNOWN, Command, Request, Use

CONF = "/etc/exim4/exim4.conf"

# `exim4 -C FILE -bP authenticators` of 4.96 prints the same socket, request and command.
AWKWARD = """\
# ${readsocket{/comment}{SMTP nobody@x}}
RUN = /run/cms
SOCKET = RUN/exim.sock
.ifdef NOPE
SOCKET == /wrong
.elifdef SOCKET
SOCKET == RUN/two.sock
.else
SOCKET == /wrong2
.endif
.ifndef SOCKET
.ifdef RUN
SOCKET == /wrong3
.endif
.endif
.include more.conf
.include_if_exists /none
begin authenticators
xo:
  driver = plaintext
  public_name = XOAUTH2
  client_send = "<; ; ${if match{${readsocket {SOCKET}\\
     # a comment in between
     {SMTP,xoauth2 WHO}\\
     {20s}}}{\\\\N^user=.+$\\\\N}{$0}fail}"
other:
  driver = plaintext
  hide public_name = oauthbearer
  client_send = : ${run{/usr/bin/cms-oauth --user=WHO "--proto=SMTP"}{$value}fail}
begin rewrite
*@x  ${readsocket{/srs}{REVERSE $local_part@$domain}}
"""
MORE = "WHO = a@x\n"


def read(files: dict[str, str]) -> list[Use]:
    return list(uses(machine(files)))


def requests(found: list[Use]) -> list[tuple[int, str, str]]:
    return [(each.place.line, each.socket, each.text) for each in found if isinstance(each, Request)]


def test_an_awkward_file() -> None:
    """What was seen with the real program."""
    found = read({CONF: AWKWARD, "/etc/exim4/more.conf": MORE})

    assert [(22, "/run/cms/two.sock", "SMTP,xoauth2 a@x"), (31, "/srs", f"REVERSE {UNKNOWN}@{UNKNOWN}")] == requests(
        found
    )
    assert [("--user=a@x", "--proto=SMTP")] == [each.words for each in found if isinstance(each, Command)]
    assert [] == faults(found)
    assert [] == unread(found)


@pytest.mark.parametrize(
    ("send", "text"),
    [
        ("{SMTP $sender_address}", f"SMTP {UNKNOWN}"),
        ("{SMTP ${lookup{$sender_address}lsearch{/u}{$value}fail}}", f"SMTP {UNKNOWN}"),
        ("{SMTP,token  user@x\\n}{5s::shutdown=no}", "SMTP,token  user@x"),
        ("{SMTP}", "SMTP"),
        (f"{{SMTP {'x' * 3_000}}}", UNKNOWN),
        ("{$acl_m1}", UNKNOWN),
        ("{SMTP us\\}er@x}", "SMTP us}er@x"),
        ("{SMTP ${if eq{}{}{a\\}b}{}}@x} {5s}", f"SMTP {UNKNOWN}@x"),
    ],
)
def test_what_an_expansion_hides_is_not_known(send: str, text: str) -> None:
    """All else of the request is."""
    conf = f"begin authenticators\nx:\n driver = plaintext\n public_name = XOAUTH2\n client_send = : ${{readsocket{{/s}}{send}}}\n"

    assert [(5, "/s", text)] == requests(read({CONF: conf}))


def test_debians_parts() -> None:
    """Without an exim4.conf, those that update-exim4.conf makes it from: split, with macros across them, or the template.

    Macros that update-exim4.conf defines are not known, so both branches count.
    """
    split = {
        "/etc/exim4/update-exim4.conf.conf": "dc_use_split_config='true'\n",
        "/etc/exim4/exim4.conf.localmacros": "SOCK = /s\n",
        "/etc/exim4/conf.d/main/01": ".ifdef DC_minimaldns\nWHO = a@x\n.else\nWHO == b@x\n.endif\n",
        "/etc/exim4/conf.d/auth/00_header": "begin authenticators\n",
        "/etc/exim4/conf.d/auth/30": "x:\n public_name = XOAUTH2\n client_send = : ${readsocket{SOCK}{SMTP WHO}}\n",
        "/etc/exim4/exim4.conf.template": "${readsocket{/template}{SMTP}}\n",
    }
    template = {**split, "/etc/exim4/update-exim4.conf.conf": "dc_use_split_config='false'\n"}

    assert [(3, "/s", "SMTP b@x")] == requests(read(split))
    assert [(1, "/template", "SMTP")] == requests(read(template))
    assert [(1, "/own", "SMTP")] == requests(read({**split, CONF: "${readsocket{/own}{SMTP}}\n"}))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ("driver = plaintext\npublic_name = PLAIN", "the authenticator is for PLAIN, which takes no token"),
        ("driver = plaintext\npublic_name = LOGIN", "the authenticator is for LOGIN, which takes no token"),
        ("driver = cram_md5\npublic_name = XOAUTH2", "`driver = cram_md5` does not send what client_send says"),
    ],
)
def test_what_can_never_log_in(options: str, cause: str) -> None:
    """It counts if the request, or the command, is ours."""
    for item in ("${readsocket{/s}{SMTP}}", "${run{/bin/cms-oauth}}"):
        found = read({CONF: f"begin authenticators\nx:\n{options}\nclient_send = : {item}\n"})
        kept = [each.cause for use in found if isinstance(use, Request) for each in use.faults]

        assert [cause] == [*kept, *(each for _, each in faults(found))]


def test_files_that_are_not_there() -> None:
    """exim itself stops at a missing inclusion; a circle ends."""
    found = read({CONF: ".include /none\n.include exim4.conf\n.endif\n.else\n"})

    assert [] == [*found, *read({})]
