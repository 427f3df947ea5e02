"""Postfix's main.cf and master.cf are read as `postconf` prints them."""

from __future__ import annotations

import pytest
from support.contrib import ROOT
from support.mail_files import machine

from cms.cli.doctor.mail_tools.found import Table
from cms.cli.doctor.mail_tools.postfix import uses

MAIN = "/etc/postfix/main.cf"
MASTER = "/etc/postfix/master.cf"
GOOD = """\
smtp_sasl_auth_enable = yes
smtp_sasl_mechanism_filter = xoauth2
smtp_sasl_security_options = noanonymous
smtp_sasl_password_maps = socketmap:unix:/s:cms
"""


def read(main: str, master: str = "") -> list[Table]:
    return [each for each in uses(machine({MAIN: main, MASTER: master})) if isinstance(each, Table)]


def causes(found: list[Table]) -> list[str]:
    return [fault.cause for each in found for fault in each.faults]


@pytest.mark.parametrize(
    ("text", "line", "socket"),
    [
        ("smtp_sasl_password_maps = socketmap:unix:/s:cms", 1, "/s"),
        ("smtp_sasl_password_maps=\n# a comment\n\n  hash:/etc/x,\n  proxy:socketmap:unix:/s:cms\n", 1, "/s"),
        ("a = /s\nt = socketmap:unix:${a}:cms\nsmtp_sasl_password_maps = $t", 3, "/s"),
        ("smtp_sasl_password_maps = $(t)\nt = pipemap:{$x, socketmap:unix:/s:cms}", 1, "/s"),
        ("smtp_sasl_password_maps = socketmap:unix:private/s:cms", 1, "/var/spool/postfix/private/s"),
        ("queue_directory = /q\nsmtp_sasl_password_maps = socketmap:unix:s:cms", 2, "/q/s"),
        ("smtp_sasl_password_maps = socketmap:unix:/old:cms\nsmtp_sasl_password_maps = socketmap:unix:/s:n", 2, "/s"),
    ],
)
def test_the_table(text: str, line: int, socket: str) -> None:
    """Continued lines, comments between them, parameters in parameters; the last one counts."""
    assert [(line, socket)] == [(each.place.line, each.socket) for each in read(text)]


@pytest.mark.parametrize(
    "text",
    [
        "smtp_sasl_password_maps = hash:/etc/postfix/sasl",
        "sender_canonical_maps = socketmap:unix:/run/srs:forward",
        "smtp_tls_policy_maps = socketmap:inet:127.0.0.1:8461:postfix",
        "smtp_sasl_password_maps = socketmap:inet:localhost:1:x",
        "# smtp_sasl_password_maps = socketmap:unix:/s:cms",
        "smtp_sasl_password_maps = $smtp_sasl_password_maps",
        "smtp_sasl_password_maps = $none",
    ],
)
def test_other_tables_are_nobodys_business(text: str) -> None:
    """Nor is a parameter that names itself."""
    assert [] == read(text)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("smtp_sasl_auth_enable = yes", "", "smtp_sasl_auth_enable is not yes"),
        ("filter = xoauth2", "filter = plain, login", "smtp_sasl_mechanism_filter is plain, login"),
        (
            "smtp_sasl_mechanism_filter = xoauth2",
            "",
            "without smtp_sasl_mechanism_filter Postfix may send the token as a password",
        ),
        (
            "smtp_sasl_security_options = noanonymous",
            "",
            "smtp_sasl_security_options has noplaintext (the default too), which excludes most plug-ins for XOAUTH2",
        ),
        (
            "smtp_sasl_security_options = noanonymous",
            "smtp_sasl_tls_security_options = noplaintext",
            "smtp_sasl_security_options has noplaintext (the default too), which excludes most plug-ins for XOAUTH2",
        ),
    ],
)
def test_what_can_never_log_in(old: str, new: str, cause: str) -> None:
    """If the table is ours."""
    assert [] == causes(read(GOOD))
    assert [cause] == causes(read(GOOD.replace(old, new)))


def test_the_chroot() -> None:
    """smtp does not see the socket there, unless proxymap asks."""
    chrooted = "# s\nsmtp unix - - y - - smtp\n"
    proxied = GOOD.replace("socketmap", "proxy:socketmap")

    (found,) = read(GOOD, chrooted)
    assert ["smtp runs in a chroot, where it does not see the socket"] == causes([found])
    assert isinstance(found, Table)
    assert Table(found.place, "/var/spool/postfix/s") == found.inside
    assert [] == causes(read(proxied, chrooted))
    assert [] == causes(read(GOOD, "smtp unix - - n - - smtp\nsmtps inet n - y - - smtpd\nbad\n"))


def test_a_service_with_parameters_of_its_own() -> None:
    """`-o` in master.cf, in both spellings, on continued lines."""
    master = (
        "relay unix - - n - - smtp\n  -o smtp_sasl_password_maps=socketmap:unix:/r:cms\n"
        "other unix - - n - - smtp -o { smtp_sasl_mechanism_filter = login }\n"
        "third unix - - n - - smtp -o syslog_name=x\n"
    )

    assert [("/s", []), ("/r", []), ("/s", ["smtp_sasl_mechanism_filter is login"])] == [
        (each.socket, causes([each])) for each in read(GOOD, master)
    ]


def test_several_instances() -> None:
    """Those that the first one names."""
    files = {MAIN: "multi_instance_directories = /etc/postfix-out, /none\n", "/etc/postfix-out/main.cf": GOOD}

    assert ["/etc/postfix-out/main.cf"] == [each.place.path for each in uses(machine(files))]
    assert [] == list(uses(machine({})))


def test_the_ready_files() -> None:
    """contrib/ has one table, and nothing is wrong with it."""
    main, master = ((ROOT / "contrib" / f"postfix-{name}.cf").read_text() for name in ("main", "master"))

    assert [("/run/cms/postfix.sock", ())] == [(each.socket, each.faults) for each in read(main, master)]
