"""Relays of docs/relays.md: mail servers of Debian's that take mail from a network and send it on with tokens."""

from __future__ import annotations

import re
import shutil
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from support import evidence
from support.contrib import ROOT
from support.fragments import marked
from support.machine import Machine
from support.ports import free_port, listens
from support.reachable import bare_environment, open_folder
from support.servers import MailServers
from support.waiting import PATIENCE, until

READER = "reader@domain.com"

# A host of the network that may send. Linux has all of 127.0.0.0/8.
MAY = "127.0.0.2"

PAGE = (ROOT / "docs" / "relays.md").read_text()
_numbers = count()


def shown(name: str) -> str:
    """Return the block of the page that is marked with `test: NAME`."""
    return marked(PAGE, name)


@dataclass
class Relay:
    """A relay that listens on `port` of `address`; `run_queue` has it try again what waits."""

    port: int
    queue: Callable[[], int]
    run_queue: Callable[[], None]
    log: Callable[[], str]
    address: str = "127.0.0.1"

    def take(self, sender: str, to: str = READER, *, host: str = MAY) -> str:
        """Hand it a message over the network, as a host of it; return the subject, which no other message has."""
        subject = f"relayed {next(_numbers)}."
        with smtplib.SMTP(self.address, self.port, source_address=(host, 0), timeout=PATIENCE) as client:
            client.sendmail(sender, to, f"From: {sender}\nTo: {to}\nSubject: {subject}\n\nhello\n")
        return subject


@contextmanager
def exim(
    sock: Path, servers: MailServers, *blocks_of_page: str, split: bool, address: str = "127.0.0.1"
) -> Iterator[Relay]:
    """Debian's exim as a relay at a loopback address, with the kit added as these blocks of the page say.

    `sock` is the socket of its cms.
    """
    with open_folder("relay") as folder:
        machine = Machine(folder, {})
        etc = folder / "etc"
        shutil.copytree("/etc/exim4", etc, dirs_exist_ok=True, ignore=shutil.ignore_patterns("exim4.conf"))
        # What `dpkg-reconfigure exim4-config` writes for a machine that sends its mail through another.
        settings = {
            "eximconfig_configtype": "smarthost",
            "other_hostnames": "",
            "local_interfaces": address,
            "relay_nets": MAY,
            "smarthost": "old.domain.com",
            "use_split_config": "true" if split else "false",
        }
        text = (etc / "update-exim4.conf.conf").read_text()
        for name, value in settings.items():
            text = re.sub(f"(?m)^dc_{name}=.*$", f"dc_{name}='{value}'", text)
        (etc / "update-exim4.conf.conf").write_text(text)
        for name in blocks_of_page:
            done = machine.run("sh", "-ec", f"cd {ROOT}\n{shown(name)}")
            assert done.returncode == 0, done.stderr
        macros = etc / ("conf.d/main/000_cms" if split else "exim4.conf.localmacros")
        adjusted = macros.read_text()
        for name, value in {
            "SMARTHOST": "localhost",
            "PORT": str(servers.submission),
            "AUTHORITIES": servers.ca_file,
            "SOCKET": str(sock),
        }.items():
            adjusted = re.sub(f"(?m)^CMS_{name} = .*$", f"CMS_{name} = {value}", adjusted)
        macros.write_text(adjusted)
        taken = machine.run("sh", "-ec", shown("exim-take"))
        assert taken.returncode == 0, taken.stderr
        port = free_port()
        command = machine.argv(machine.exim, "-bdf", "-oX", f"[{address}]:{port}")
        with subprocess.Popen(command, env=bare_environment()) as process:
            try:
                until(lambda: listens(port, address), "exim's port")
                yield Relay(port, lambda: len(machine.queue), machine.run_queue, machine.log, address)
            finally:
                process.terminate()
                for name in ("main", "reject", "panic"):
                    evidence.keep("exim", machine.log(name))
