"""Facts about the network in, findings out: each with the level that it deserves, and whose move it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cms.cli.doctor import assess_network
from cms.cli.doctor.assess_network import Https, Names, Reached
from cms.cli.doctor.findings import Finding
from cms_oauth.diagnosis.certificates import MISNAMED, OTHER_NAME

DAY = 86_400.0


def told(found: Finding) -> tuple[str, str]:
    """Return a finding's level, and the name of its first verdict."""
    assert (found.level in {"pass", "skip"}) is not bool(found.verdicts)
    return found.level, found.verdicts[0].name if found.verdicts else ""


def test_the_reason_and_the_time_of_a_certificate_are_said() -> None:
    """OpenSSL's reason, and from when to when it is valid: so a wrong clock can be told from an old certificate."""
    found = replace(THEIRS, error="certificate has expired", valid="2026-01-01 to 2026-02-01")
    finding = assess_network.tls(found)

    assert (
        "from Example Proxy CA, valid 2026-01-01 to 2026-02-01 is not trusted: certificate has expired"
        in finding.message
    )
    assert "timedatectl" in finding.verdicts[0].steps[0]


def test_variables() -> None:
    """Those that stop cms fail, those that are ignored warn; there is a line in any case."""
    assert ["pass"] == [each.level for each in assess_network.environment((), ())]
    found = assess_network.environment(("SSL_CERT_DIR names /x",), ("CURL_CA_BUNDLE names /y",))

    assert [("fail", "CURL_CA_BUNDLE names /y"), ("warn", "SSL_CERT_DIR names /x")] == [
        (each.level, each.message) for each in found
    ]


def test_names() -> None:
    """A name that means something, or not; what stops several is told once."""
    unknown = "Name or service not known"
    found = assess_network.names([Names("a", error=unknown), Names("b", ("192.0.2.1",)), Names("c", error=unknown)])

    assert [("pass", ""), ("fail", "no-name")] == [told(each) for each in found]
    assert f"a, c: {unknown}" == found[1].message


@pytest.mark.parametrize(
    ("skew", "expected"),
    [(0.4, "pass"), (-29.0, "pass"), (31.0, "warn"), (-299.0, "warn"), (300.0, "fail"), (-DAY, "fail"), (None, "skip")],
)
def test_the_clock(skew: float | None, expected: str) -> None:
    """Entra tolerates five minutes; half a minute off means that no program sets the clock."""
    assert expected == assess_network.clock(Https("login", skew=skew)).level


THEIRS = Https("login", issuer="Example Proxy CA")
SEEN = Https("login", trusted=True, issuer="DigiCert Inc", version="TLSv1.3")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (SEEN, ("pass", "")),
        (replace(SEEN, host="login.microsoftonline.com", issuer="Example Proxy CA"), ("warn", "interception")),
        # Whose certificate another provider has is not known.
        (replace(SEEN, host="sso.example.test", issuer="Example CA"), ("pass", "")),
        (replace(SEEN, issuer="Example Proxy CA", ca="/ca.pem"), ("pass", "")),
        (replace(THEIRS, error="unable to get local issuer certificate"), ("fail", "corporate-certificate")),
        (replace(THEIRS, error="certificate has expired"), ("fail", "certificate-expired")),
        (replace(THEIRS, error="certificate is not yet valid"), ("fail", "certificate-not-yet-valid")),
        (replace(THEIRS, error="Hostname mismatch, certificate is not valid for 'login'."), ("fail", OTHER_NAME.name)),
        (replace(THEIRS, error="self-signed certificate"), ("fail", "certificate-self-signed")),
        (replace(THEIRS, error="EE certificate key too weak"), ("fail", "certificate-too-weak")),
        (replace(THEIRS, error="x; SSL_CERT_FILE names /x, which does not exist"), ("fail", MISNAMED.name)),
        (Https("login", error="refused"), ("fail", "unreachable")),
        # Another check says why.
        (Https("login", error="refused", proxy="http://p:1", named_by="HTTPS_PROXY"), ("skip", "")),
        (Https("login", error="HTTPS_PROXY is no address", named_by="HTTPS_PROXY"), ("skip", "")),
        (Https("login", error="Name or service not known", nameless=True), ("skip", "")),
        (Https("login", error="x", proxy="http://p:1", named_by="y", unusable="z"), ("fail", "wrong-authorities")),
    ],
)
def test_tls(found: Https, expected: tuple[str, str]) -> None:
    """A certificate of the world's, of a company's, or none that is trusted: whose it is, is said."""
    assert expected == told(assess_network.tls(found))
    assert found.issuer in assess_network.tls(found).message


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (SEEN, ("pass", "")),
        (replace(SEEN, proxy="http://p:1"), ("pass", "")),
        (Https("login", error="refused", proxy="http://p:1"), ("fail", "proxy")),
        (Https("login", error="self-signed", issuer="x", proxy="http://p:1"), ("pass", "")),
        (Https("login", error="x", proxy="http://p:1", named_by="y", unusable="z"), ("skip", "")),
    ],
)
def test_the_proxy(found: Https, expected: tuple[str, str]) -> None:
    """None, one that works, or one that does not."""
    assert expected == told(assess_network.proxy(found))


def test_a_login_host_that_was_not_looked_at() -> None:
    """It is neither good nor bad, and the reason is said."""
    unseen = Https("login", proxy="http://p:1", unseen="no password")

    for look in (assess_network.clock, assess_network.tls, assess_network.proxy):
        assert "skip" == look(unseen).level
        assert "no password" in look(unseen).message


def test_mail_servers() -> None:
    """A port that is open, or closed on the way."""
    assert ("pass", "") == told(assess_network.reached(Reached("smtp", 587), ["a@x"]))
    assert ("fail", "mail-port") == told(assess_network.reached(Reached("smtp", 587, "timed out"), ["a@x"]))
    steps = [
        str(assess_network.reached(Reached(host, 2525, "refused"), ["a@x"]).verdicts[0].steps[0])
        for host in ("smtp.office365.com", "imap.gmail.com", "localhost")
    ]
    assert [True, True, False] == [each.startswith("outgoing port 2525 must be open") for each in steps]
    assert "start the server" in steps[2]
    nameless = assess_network.reached(
        Reached("smtp.office365.com", 587, "Name or service not known", nameless=True), ["a@x"]
    )
    assert ("skip", True) == (nameless.level, "see dns" in nameless.message), "no port is in the way of a name"
