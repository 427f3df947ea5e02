"""The status as OpenMetrics text, for Prometheus: `cms metrics`, and a daemon with `Metrics` in its configuration.

It is made from the object that `cms status --json` prints. Only types that Prometheus' older text format has too are used
(no info, no state set), because node_exporter's textfile collector reads that one. Loading this file loads
prometheus_client, which takes a few MB: import it where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from cms.core.monitoring import states

CONTENT_TYPE = CONTENT_TYPE_LATEST

# What the gauges of an account are called, what they say, and where in its row that is.
_OF_ACCOUNTS = (
    ("cms_account_severity", "What monitoring should make of the account: 0 good, 1 warning, 2 critical", "severity"),
    ("cms_token_usable", "Whether a token is held that has not expired", "usable"),
    ("cms_token_age_seconds", "The time since the token was issued", "token age"),
    ("cms_token_left_seconds", "The time until the token expires", "token left"),
    ("cms_next_sign_in_seconds", "The time until the next sign-in is expected", "ends_in"),
    ("cms_sign_in_shared", "Whether the fleet's database has the newest of the sign-in", "shared"),
    ("cms_certificate_left_seconds", "The time until the application's certificate ends", "credential_ends_in"),
)

Document = Mapping[str, Any]


def text(document: Document) -> bytes:
    """Return the metrics of a status."""
    made: bytes = generate_latest(_Collected(_families(document)))  # type: ignore[no-untyped-call]  # without annotations
    return made


class _Collected:
    """What prometheus_client takes for a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(document: Document) -> Iterator[Metric]:
    yield from _of_daemon(document["daemon"])
    accounts = document["accounts"]
    by_state = GaugeMetricFamily("cms_accounts", "Accounts in each state", labels=["state"])
    for state, count in states((each["user"], each["state"]) for each in accounts).items():
        by_state.add_metric([state], count)
    yield by_state
    for name, help_text, field in _OF_ACCOUNTS:
        yield _of_accounts(name, help_text, field, accounts)
    yield from _counters(document.get("counters", {}))


def _of_daemon(daemon: Document) -> Iterator[Metric]:
    build = GaugeMetricFamily("cms_build_info", "The version of the daemon that runs", labels=["version"])
    build.add_metric([daemon["version"]], 1)
    yield build
    yield GaugeMetricFamily("cms_uptime_seconds", "The time since the daemon was started", daemon["uptime"])
    help_text = "Sockets and token files that programs cannot use"
    yield GaugeMetricFamily("cms_troubles", help_text, len(daemon["troubles"]))
    if fleet := daemon.get("fleet"):
        help_text = "The time for which the fleet's database could not be asked"
        yield GaugeMetricFamily("cms_fleet_away_seconds", help_text, fleet["away"])


def _of_accounts(name: str, help_text: str, field: str, accounts: Iterable[Document]) -> Metric:
    # Prometheus refuses all of it if two samples have the same labels.
    found = dict[tuple[str, str], float]()
    record, _, part = field.rpartition(" ")
    for account in accounts:
        value = (account[record] or {}).get(part) if record else account.get(part)
        if value is not None:
            # An account without a name has none before its first sign-in.
            found[account["user"] or account["grant"], ",".join(account["protocols"])] = float(value)
    family = GaugeMetricFamily(name, help_text, labels=["user", "protocols"])
    for labels, value in found.items():
        family.add_metric(labels, value)
    return family


def _counters(counters: Document) -> Iterator[Metric]:
    requests = CounterMetricFamily("cms_requests", "Requests for a token, by outcome", labels=["outcome"])
    for outcome, count in counters.get("requests", {}).items():
        requests.add_metric([outcome], count)
    yield requests
    refreshes = HistogramMetricFamily(
        "cms_refresh_seconds", "How long the provider took to answer, by outcome", labels=["outcome"]
    )
    known = counters.get("refreshes", {"bounds": (), "outcomes": {}})
    bounds = [*(str(float(each)) for each in known["bounds"]), "+Inf"]
    for outcome, each in known["outcomes"].items():
        up_to = accumulate(each["counts"])
        refreshes.add_metric([outcome], list(zip(bounds, up_to, strict=True)), each["seconds"])
    yield refreshes
    starts = CounterMetricFamily("cms_worker_starts", "Processes of the grant worker that were started")
    starts.add_metric([], counters.get("worker_starts", 0))
    yield starts
