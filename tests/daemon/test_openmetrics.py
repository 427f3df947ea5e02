"""The status as Prometheus reads it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.status_rows import DAEMON, ENTRIES, EXPECTED, given, row_of

from cms.core.accounts import FleetFacts
from cms.core.status import STATES, as_json
from cms.daemon import openmetrics
from cms.daemon.refreshes import BOUNDS

COUNTERS = {
    "requests": {"granted": 7, "denied": 2},
    "refreshes": {
        "bounds": BOUNDS,
        "outcomes": {"granted": {"counts": [1, 2, 0, 0, 0, 0, 0, 0, 1], "seconds": 41.5}},
    },
    "worker_starts": 3,
}
Labels = frozenset[tuple[str, str]]


def document(*names: str, **more: Any) -> dict[str, Any]:
    """What a daemon with accounts in these states sends."""
    made = as_json([replace(row_of(name), **more, user=f"{name[0]}{at}@x") for at, name in enumerate(names)], DAEMON)
    sent: dict[str, Any] = json.loads(json.dumps({**made, "counters": COUNTERS}))
    return sent


def read(sent: dict[str, Any]) -> dict[tuple[str, Labels], float]:
    """Parse the text as strictly as the library does."""
    families = text_string_to_metric_families(openmetrics.text(sent).decode())  # type: ignore[no-untyped-call]  # without annotations
    samples = [each for family in families for each in family.samples]
    found = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    assert len(samples) == len(found), "no two samples have the same name and labels"
    return found


def of(found: dict[tuple[str, Labels], float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_accounts_are_counted_by_state() -> None:
    """Each state is there, also with none: an alert on a missing sample never fires."""
    found = read(document("ok", "failing", "ok"))

    expected = {state: {"ok": 2.0, "failing": 1.0}.get(state, 0.0) for state in STATES}
    assert expected == {state: of(found, "cms_accounts", state=state) for state in STATES}


def test_each_account_has_its_numbers() -> None:
    """Its severity, its token's age and what is left of it; what is not known is not there."""
    found = read(document("ok", "sign-in-required"))
    ok, lost = ({"user": user, "protocols": "SMTP,IMAP"} for user in ("o0@x", "s1@x"))

    assert (0.0, 1.0, 600.0, 3000.0) == tuple(
        of(found, name, **ok)
        for name in ("cms_account_severity", "cms_token_usable", "cms_token_age_seconds", "cms_token_left_seconds")
    )
    assert (2.0, 0.0) == (of(found, "cms_account_severity", **lost), of(found, "cms_token_usable", **lost))
    assert ("cms_token_age_seconds", frozenset(lost.items())) not in found
    assert not any(name == "cms_next_sign_in_seconds" for name, _ in found)


def test_the_next_sign_in() -> None:
    """In seconds, where there is a forecast."""
    sent = json.loads(json.dumps(as_json([given(12, forecast=EXPECTED)], DAEMON)))
    labels = {"user": "a@example.test", "protocols": "SMTP,IMAP"}

    assert 2 * 86_400.0 == of(read(sent), "cms_next_sign_in_seconds", **labels)


def test_a_certificate() -> None:
    """In seconds too."""
    labels = {"user": "o0@x", "protocols": "SMTP,IMAP"}

    assert 60.0 == of(read(document("ok", credential_ends_in=60)), "cms_certificate_left_seconds", **labels)


def test_a_shared_sign_in() -> None:
    """Whether the fleet's database has it; nothing is said of one that this host keeps alone, or by an older daemon."""
    labels = {"user": "o0@x", "protocols": "SMTP,IMAP"}
    alone, older = document("ok"), document("ok")
    for row in older["accounts"]:
        del row["shared"]

    assert [1.0, 0.0] == [
        of(read(document("ok", shared=each)), "cms_sign_in_shared", **labels) for each in (True, False)
    ]
    assert not any(name == "cms_sign_in_shared" for each in (alone, older) for name, _ in read(each))


def test_a_database_that_is_away() -> None:
    """In seconds, 0 if it can be asked; nothing without a fleet."""
    sent = [as_json([], replace(DAEMON, fleet=each)) for each in (FleetFacts(300.0, "x"), FleetFacts(), None)]
    found = [read(json.loads(json.dumps(each))) for each in sent]

    assert [300.0, 0.0, None] == [each.get(("cms_fleet_away_seconds", frozenset())) for each in found]


def test_the_counters() -> None:
    """Requests and refreshes by outcome, and how often the worker was started."""
    found = read(document("ok"))

    assert (7.0, 2.0) == tuple(of(found, "cms_requests_total", outcome=each) for each in ("granted", "denied"))
    assert 3.0 == of(found, "cms_worker_starts_total")
    assert [1.0, 3.0, 3.0, 4.0] == [
        of(found, "cms_refresh_seconds_bucket", outcome="granted", le=each) for each in ("0.25", "0.5", "1.0", "+Inf")
    ]
    assert (4.0, 41.5) == tuple(
        of(found, f"cms_refresh_seconds_{each}", outcome="granted") for each in ("count", "sum")
    )


def test_the_daemon() -> None:
    """Its version and uptime, and how many sockets and token files programs cannot use."""
    found = read(document("ok"))

    assert 1.0 == of(found, "cms_build_info", version="1.2.3")
    assert (90_061.0, 0.0) == (of(found, "cms_uptime_seconds"), of(found, "cms_troubles"))


def test_names_from_outside_stay_in_their_quotes() -> None:
    """A user may be named anything; and two accounts without a name are two."""
    odd = 'a"b\\\n} 1\n# EOF@x'
    rows = [replace(row_of("ok"), user=odd), *(replace(row_of("ok"), user="", grant=each) for each in ("g1", "g2"))]
    found = read(json.loads(json.dumps(as_json(rows, DAEMON))))

    assert [1.0] * 3 == [of(found, "cms_token_usable", user=user, protocols="SMTP,IMAP") for user in (odd, "g1", "g2")]


def test_an_older_reader_understands_the_types() -> None:
    """node_exporter's textfile collector refuses the whole file at a type that the older format has not."""
    types = re.findall(r"^# TYPE \S+ (\S+)$", openmetrics.text(document(*ENTRIES)).decode(), re.MULTILINE)

    assert {"counter", "gauge", "histogram"} == set(types)


def test_no_secret_is_in_it() -> None:
    """Of a token only its times are told."""
    assert b"TOP-SECRET" not in openmetrics.text(document(*ENTRIES))


def test_only_metrics_load_the_library() -> None:
    """It takes megabytes, and a daemon without `Metrics` does without."""
    look = "import sys, cms.daemon.app, cms.cli.commands.daemon; print('prometheus_client' in sys.modules)"

    assert "False\n" == subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
