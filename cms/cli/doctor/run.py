"""Runs `cms doctor`: all checks at the same time, the report on the terminal or as JSON, and the file for a bug report.

It prints the findings in the order of the checks, each as soon as the ones before it are done. A check that does not
end in time is reported as late.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cms.cli.doctor import probe_machine
from cms.cli.doctor.bundle import Redactor, addresses_in, redacted
from cms.cli.doctor.checks import CHECKS, Check
from cms.cli.doctor.examination import Examination, unfinished
from cms.cli.doctor.findings import (
    Finding,
    as_data,
    as_text,
    exit_code,
    failed,
    merged,
    summary,
    yours,
)
from cms.cli.terminal import Progress, columns
from cms.config.model import Config
from cms.core.status_text import WIDTH
from cms.system import threads
from cms.system.files import oddity, place_new, write_private
from cms_oauth.microsoft import TENANT_WORDS
from cms_oauth.providers import MICROSOFT, OWN
from cms_oauth.version import VERSION

# How often the line of progress is redrawn.
_REDRAW_SECONDS = 0.1


def examine(
    examination: Examination,
    tell: Callable[[Finding], None],
    progress: Callable[[str], None] = lambda _text: None,
    checks: Sequence[Check] = CHECKS,
) -> list[Finding]:
    """Run all checks at the same time and return their findings, in the checks' order.

    `tell` gets each finding as early as that order allows, those with one cause as one; `progress` regularly gets a
    line with the names of the running checks.
    """
    deadline = time.monotonic() + examination.limits.whole
    begun = [(check, threads.start(_finding(check, examination), check.name)) for check in checks]
    found: list[Finding] = []
    for check, future in begun:
        while not wait([future], _REDRAW_SECONDS).done and time.monotonic() < deadline:
            progress(f"checking: {', '.join(each.name for each, pending in begun if not pending.done())}")
        progress("")
        now = future.result() if future.done() else [unfinished(check.name)]
        for each in merged(now):
            tell(each)
        found += now
    return found


def _finding(check: Check, examination: Examination) -> Callable[[], list[Finding]]:
    def find() -> list[Finding]:
        try:
            return list(check.find(examination))
        # BLE001: a bug in one check must not lose the findings of the others.
        except Exception as error:  # noqa: BLE001
            cause = f"the check itself failed: {type(error).__name__}"
            return [failed(check.name, cause, yours("bug", "this is a bug in cms", "report it with `--bundle FILE`"))]

    return find


# The fields of the daemon's status that a bundle contains. An account's user and its problem's message are redacted;
# links of a sign-in, paths, other sign-ins and requests are left out.
DAEMON_FACTS = ("version", "uptime", "loaded", "memory_chosen")
ROW_FACTS = (
    *("user", "state", "protocols", "usable", "token", "problem", "persisted", "warning", "refused"),
    *("signed_in_age", "forecast", "ends_in", "sign_in_due", "sign_in", "credential_expires_at", "credential_due"),
)


def _facts(status: Mapping[str, Any]) -> dict[str, Any]:
    daemon, rows = status.get("daemon", {}), status.get("accounts", [])
    return {
        "daemon": {name: daemon[name] for name in DAEMON_FACTS if name in daemon},
        "accounts": [{name: row[name] for name in ROW_FACTS if name in row} for row in rows],
    }


def bundle(examination: Examination, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return a report for strangers: the findings and the daemon's status, without names and secrets."""
    status = examination.in_time(lambda: examination.status)
    report = {**as_data(findings, VERSION), "status": _facts(status) if isinstance(status, Mapping) else {}}
    config = examination.in_time(lambda: examination.config)
    accounts = config.accounts if isinstance(config, Config) else ()
    addresses = {address for each in accounts for address in (each.user, each.grant.login)} | addresses_in(report)
    private = [each.grant for each in accounts if each.grant.provider in (MICROSOFT, OWN)]
    tenants = {each.authority.rpartition("/")[2] for each in private} - set(TENANT_WORDS)
    tenants |= {str(urlsplit(each.authority).hostname) for each in private if each.server}
    domains = {address.rpartition("@")[2] for address in addresses}
    mailboxes = {each.mailbox for each in accounts} - PUBLIC_MAILBOXES
    names = [*probe_machine.personal_names(), *(tenants - domains)]
    redactor = Redactor(names, examination.home, [*sorted(addresses), examination.user], mailboxes)
    found: dict[str, Any] = redacted(report, redactor)
    # After the number, a kernel's release may contain words of the person who built it.
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"
    return {**found, "machine": {"system": kernel, "python": platform.python_version(), "cms": VERSION}}


# Names of mailboxes that every account has.
PUBLIC_MAILBOXES = frozenset(("", "INBOX"))


def write_bundle(path: str, report: Mapping[str, Any]) -> None:
    """Write a report to a new file that only its owner can read. Raises FileExistsError, and other OSErrors."""
    # In ASCII, because the report is read in terminals: names of files may be any bytes.
    text = json.dumps(report, indent=2)
    write_private(Path(path), f"{text}\n".encode(), place=place_new)


def _check_place(path: str) -> None:
    """Raise OSError if the report cannot be written there. Called before the checks, which take a while."""
    if os.path.lexists(path):
        what = oddity(Path(path))
        said = f"it is {what}: name a regular file" if what else "it already exists and was not changed"
        raise FileExistsError(errno.EEXIST, said, path)
    folder = Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no file can be written there", str(folder))


def examine_and_report(examination: Examination, bundle_path: str, say: Callable[[str], None], *, as_json: bool) -> int:
    """Run the command and return its exit status. Raises OSError if the report cannot be written."""
    if bundle_path:
        _check_place(bundle_path)
    progress, told = Progress(sys.stderr), list[Finding]()

    def tell(finding: Finding) -> None:
        told.append(finding)
        if not as_json:
            progress("")
            say("\n".join(as_text(finding, columns() or WIDTH)))

    findings = examine(examination, tell, progress)
    say(json.dumps(as_data(findings, VERSION), indent=2) if as_json else f"\n{summary(told)}")
    if bundle_path:
        write_bundle(bundle_path, bundle(examination, findings))
        if not as_json:
            say(f"Wrote {bundle_path}. Look through it before you send it: it has the domains of the addresses")
    return exit_code(findings)
