"""cms in a user namespace: all who are not in it have one number there, which admits nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.broker import Broker, signed_in
from support.daemon import Daemon, ask
from support.programs import give_up, require_program, require_root
from support.reachable import ALICE, BOB, CAROL, Installation

from cms.core.policy import NAMESPACE

USER = "namespace@example.test"
REFUSED = os.EX_NOPERM
# Of these kernels' proc_sys_kernel(5).
OVERFLOW = 65534

# name of a socket -> its arguments. All of them serve the same account, and the kernel lets everybody connect.
SOCKETS = {
    "users": f'users=["{OVERFLOW}"]',
    "groups": f'groups=["{OVERFLOW}"]',
    "both": f'users=["{OVERFLOW}", "{BOB}"], groups=["{OVERFLOW}"]',
    "open": "mode=0o666",
}


@pytest.fixture(scope="module")
def broker(installation: Installation) -> Iterator[Broker]:
    """ALICE's daemon in a namespace that has nobody but her, as a rootless container has."""
    require_root()
    unshare = (require_program("unshare", "util-linux"), "--user", "--map-current-user")
    try:
        with signed_in(installation, ALICE, USER, more=more_sockets, before=unshare) as running:
            yield running
    except AssertionError as error:
        if "unshare failed" in str(error):
            give_up("this machine allows no user namespaces")
        raise


def more_sockets(daemon: Daemon) -> str:
    return "".join(
        f'CredentialServer("{daemon.sockets}/{name}.sock", accounts=[account], {arguments})\n'
        for name, arguments in SOCKETS.items()
    )


@pytest.mark.parametrize("name", SOCKETS)
def test_a_stranger_in_a_namespace_gets_no_token(broker: Broker, name: str) -> None:
    """Not BOB, CAROL, nor root from outside: cms cannot tell them from each other. ALICE, who is there, is served."""
    where = broker.daemon.sockets / f"{name}.sock"
    strangers = [broker.daemon.token(where, USER, uid=uid) for uid in (BOB, CAROL)]

    assert [(REFUSED, "")] * 2 == [(each.returncode, each.stdout) for each in strangers]
    assert b"" == ask(where, f"SMTP {USER}".encode())
    assert 0 == broker.daemon.token(where, USER).returncode


def test_the_log_and_check_say_so(broker: Broker) -> None:
    """Which numbers, and that the configuration counts on one of them."""
    unshare = (require_program("unshare", "util-linux"), "--user", "--map-current-user")
    check = (broker.daemon.installation.command("cms"), "check", "-c", str(broker.daemon.config))
    checked = broker.daemon.run(*unshare, *check)

    assert 1 == broker.daemon.log.count(NAMESPACE)
    assert f"note: {NAMESPACE}: uid {OVERFLOW}, gid {OVERFLOW}" in checked.stdout
    assert f"warning: {NAMESPACE}: uid {OVERFLOW}, gid {OVERFLOW}" in checked.stderr
    outside = broker.daemon.run(*check)
    assert NAMESPACE not in outside.stdout + outside.stderr
