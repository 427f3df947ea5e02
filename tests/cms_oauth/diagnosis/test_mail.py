"""The table of mail servers' replies: every row can be reached, and says all that a row has to."""

from __future__ import annotations

import re

import pytest
from support.dialogues import all_dialogues

from cms_oauth.diagnosis import mail
from cms_oauth.diagnosis.lookup import diagnose
from cms_oauth.diagnosis.verdicts import MOVERS, Claims, Evidence, Verdict

CAUSES = list(dict.fromkeys(cause for row in mail.ROWS for cause in row.causes))

# Replies that no recorded dialogue has, each with its source and the first verdict.
MORE = (
    (
        "smtp",
        "535 5.7.139 Authentication unsuccessful. Visit https://aka.ms/smtp_auth_disabled",
        "smtp-auth-off",
        "[C]",
    ),
    (
        "smtp",
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled",
        "smtp-auth-off",
        "cut short by a person",
    ),
    ("smtp", "501 5.5.4 Invalid argument", "malformed-login", "Exchange Online, SMTP"),
    ("smtp", "530 5.7.1 Client was not authenticated", "not-logged-in", "Exchange"),
    ("smtp", "530 5.7.0 Must issue a STARTTLS command first", "no-tls", "Postfix"),
    ("smtp", "502 5.5.1 Command not implemented", "no-oauth", "RFC 5321"),
    ("smtp", "503 AUTH command used when not advertised", "no-oauth", "exim"),
    (
        "smtp",
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP",
        "organisation-limit",
        "NDR",
    ),
    (
        "smtp",
        "554 5.7.60 Client does not have permissions to send as this sender",
        "send-as-denied",
        "Exchange Online, SMTP",
    ),
    (
        "smtp",
        "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException",
        "send-as-denied",
        "Exchange Online, SMTP",
    ),
    ("smtp", "534 5.7.9 Authentication mechanism is too weak", "unknown", "RFC 4954"),
    ("imap", "Temporary failure in name resolution", "no-such-host", "getaddrinfo(3)"),
    ("imap", "SASL(-4): no mechanism available: No worthy mechs found", "no-plugin", "Cyrus SASL, sasl_errstring"),
    (
        "smtp",
        "451 4.7.0 Temporary server error. Please try again later. PRX6",
        "front-end-trouble",
        "Exchange Online, SMTP",
    ),
    ("smtp", "501 5.9.9 Say that again", "unknown", "made up"),
    ("smtp", "432 4.7.12 A password transition is needed", "unknown", "RFC 4954"),
    ("smtp", "535 5.7.139 Authentication unsuccessful, the widget policy blocks it. [AM0.prod]", "unknown", "made up"),
    ("smtp", "538 5.7.11 Encryption required for requested authentication mechanism", "no-tls", "RFC 4954"),
    ("smtp", "535 5.7.8 Authentication credentials invalid", "smtp-auth-off", "RFC 4954"),
    ("smtp", "421 4.7.0 Too many errors on this connection", "unknown", "RFC 5321"),
    ("imap", "NO [AUTHENTICATIONFAILED] the moon is wrong", "unknown", "RFC 5530"),
    ("imap", "NO LOGIN failed: try the back door", "unknown", "made up"),
    ("imap", "NO too many apples", "unknown", "made up"),
    ("pop", "-ERR [AUTH] the door is shut", "unknown", "RFC 3206"),
    ("pop", "-ERR Too many simultaneous connections", "too-many-connections", "user reports"),
    ("smtp", "nothing came from host:587 for 20 s", "no-greeting", "mailtest"),
    ("smtp", "no TLS with localhost:465: WRONG_VERSION_NUMBER", "tls-broken", "OpenSSL"),
    ("imap", "NO Maximum size of appendable message has been exceeded", "message-too-big", "user reports"),
    ("imap", "NO Folder name is reserved", "folder-name", "user reports"),
    ("imap", "NO Mailbox already exists", "folder-name", "user reports"),
    ("imap", "NO [OVERQUOTA] Quota exceeded", "mailbox-full", "RFC 5530"),
    ("imap", "NO [AUTHORIZATIONFAILED] no such right", "no-full-access", "RFC 5530"),
    ("imap", "NO [PRIVACYREQUIRED] plaintext authentication disallowed", "no-tls", "RFC 5530"),
    ("imap", "NO [NONEXISTENT] Unknown mailbox", "no-mailbox", "RFC 5530"),
    ("imap", "NO LOGIN failed.", "password-used", "user reports"),
    ("imap", "Connection closed.", "connection-closed", "user reports; mailtest takes `* BYE` off"),
    ("imap", "BYE Connection closed", "connection-closed", "user reports"),
    ("imap", "Trying command when NOT connected!", "throttled", "user reports, imapsync's own words"),
    ("imap", "BAD unsupported authentication mechanism", "no-oauth", "Dovecot"),
    ("imap", "SSL read error", "tls-broken", "user reports"),
    ("imap", "Connection closed. 14", "server-trouble", "Exchange Online, IMAP and POP"),
    ("pop", "-ERR [LOGIN-DELAY] wait", "pop-polling", "RFC 2449"),
    ("pop", "-ERR Unknown command.", "no-oauth", "Dovecot"),
    ("imap", "host:993 gave no whole answer: socket error: EOF", "no-answer", "mailtest"),
    *(
        (protocol, f"the certificate of host:993 is not trusted: {reason}", name, "OpenSSL")
        for protocol, reason, name in (
            ("smtp", "certificate has expired", "certificate-expired"),
            ("imap", "certificate is not yet valid", "certificate-not-yet-valid"),
            ("pop", "Hostname mismatch, certificate is not valid for 'invalid.test'.", "certificate-for-another-name"),
            ("imap", "IP address mismatch, certificate is not valid for '192.0.2.1'.", "certificate-for-another-name"),
            ("smtp", "self-signed certificate", "certificate-self-signed"),
            ("smtp", "self signed certificate", "certificate-self-signed"),
            ("smtp", "self-signed certificate in certificate chain", "certificate"),
            ("smtp", "unable to get local issuer certificate", "certificate"),
            ("imap", "unable to verify the first certificate", "certificate"),
            ("smtp", "x; SSL_CERT_FILE names /x, which does not exist", "certificate-authorities-misnamed"),
            ("imap", "EE certificate key too weak", "certificate-too-weak"),
            ("imap", "CA signature digest algorithm too weak", "certificate-too-weak"),
            ("pop", "invalid CA certificate", "certificate-invalid"),
            ("pop", "unsuitable certificate purpose", "certificate-invalid"),
        )
    ),
    ("smtp", "certificate verify failed: unable to get local issuer certificate", "certificate", "Python"),
    ("smtp", "host cannot be resolved: Name or service not known", "no-such-host", "mailtest"),
    ("pop", "no connection with host:995: Connection refused", "no-connection", "mailtest"),
    ("imap", "host:993 gave no whole answer: not done after 60 s", "no-answer", "mailtest"),
    ("smtp", "it offers no TLS, and cms sends no token unencrypted", "no-tls", "mailtest"),
    ("smtp", "it offers no OAuth2 login, only: LOGIN PLAIN", "no-oauth", "mailtest"),
)


@pytest.mark.parametrize(("protocol", "reply", "name", "source"), MORE)
def test_replies_that_no_dialogue_has(protocol: str, reply: str, name: str, source: str) -> None:
    """The first verdict, with no evidence at all."""
    assert source
    assert name == diagnose(protocol, reply)[0].name


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (
            "535 5.7.3 Authentication unsuccessful [YT1PRX0101CA0001.prod.outlook.com 2026-11-20T09:15:27Z 08DE]",
            "smtp-auth-off",
        ),
        ("535 5.7.3 Authentication unsuccessful [BL1PRX1.prod.outlook.com 2026-11-20T09:15:27Z 08DE]", "smtp-auth-off"),
        ("535 5.7.3 Authentication unsuccessful [15.1.8.2]", "smtp-auth-off"),
        ("535 5.7.3 Authentication unsuccessful [5.2.3.4]", "smtp-auth-off"),
        ("535 5.7.3 Authentication unsuccessful [10.5.2.2]", "smtp-auth-off"),
        ("535 5.7.3 Authentication unsuccessful [10.5.7.60]", "smtp-auth-off"),
        ("554 5.7.60. Client", "send-as-denied"),
    ],
)
def test_a_name_or_an_address_is_no_code(reply: str, name: str) -> None:
    """What support is given at the end of a reply tells nothing of the cause."""
    assert name == diagnose("smtp", reply)[0].name


# Every reply that a test has, in any server's words.
SAID = sorted(
    {(each.protocol, line.removeprefix("S: ").removeprefix("TAG ")) for each in all_dialogues() for line in each.lines}
    | {(protocol, reply) for protocol, reply, *_ in MORE}
)
GREETINGS = {"smtp": "220 mail.corp.example ESMTP", "imap": "* OK ready", "pop": "+OK ready"}
OF_MICROSOFT = re.compile(r"microsoft|exchange|outlook|Defender|Entra|(?-i:`[A-Z][a-z]+-[A-Z])", re.IGNORECASE)


@pytest.mark.parametrize(
    ("provider", "host"),
    [
        ("oauth2", "mail.corp.example"),
        ("google", "mail.corp.example"),
        ("google", "imap.gmail.com"),
        ("yandex", "imap.yandex.com"),
        ("", "imap.yandex.com"),
    ],
)
@pytest.mark.parametrize("greets", [True, False])
def test_what_is_microsofts_is_said_of_no_other_server(provider: str, host: str, *, greets: bool) -> None:
    """Whatever another provider's account is told there, no advice of it is about Microsoft's names, pages or commands."""
    own = Claims(audience="mail", scopes=("openid", "mail"), user="x@corp.example", issuer="https://sso.corp.example")
    for protocol, reply in SAID:
        known = Evidence(
            *("user@corp.example", host),
            provider=provider,
            claims=own,
            greeting=GREETINGS[protocol] if greets else "",
            now=1.8e9,
        )
        for each in () if OF_MICROSOFT.search(reply) else diagnose(protocol, reply, known):
            assert not OF_MICROSOFT.search(" ".join((each.cause, *each.steps, each.link))), (reply, each)


def test_every_row_is_reached() -> None:
    """By a recorded dialogue or by one of these: a row that is always too late goes."""
    said = [(each.protocol, line) for each in all_dialogues() for line in each.lines]
    said += [(protocol, reply) for protocol, reply, _, _ in MORE]
    reached = {
        next(
            (number for number, row in enumerate(mail.ROWS) if protocol in row.protocols and row.pattern.search(line)),
            -1,
        )
        for protocol, reply in said
        for line in (reply.removeprefix("S: ").removeprefix("TAG "),)
    }

    assert [] == [row.pattern.pattern for number, row in enumerate(mail.ROWS) if number not in reached]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_every_verdict_is_whole(cause: Verdict) -> None:
    """A sentence, whose move it is, what to do, how long it takes, words to find it by; a link where there is one."""
    assert re.fullmatch(r"[A-Z{][^\n]*\.", cause.cause)
    assert cause.mover in MOVERS
    assert cause.steps
    assert cause.takes
    assert cause.words
    assert re.fullmatch(r"(https://\S+)?", cause.link)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_an_administrator_gets_a_command_or_clicks(cause: Verdict) -> None:
    """Exact ones, to pass on."""
    exact = re.compile(r"`(Get|Set|Add|New)-\w+|> |`cms |permission")

    assert cause.mover != "administrator" or any(exact.search(step) for step in cause.steps)


def test_names_are_unique() -> None:
    """A program can tell the verdicts apart."""
    names = [each.name for each in vars(mail).values() if isinstance(each, Verdict)]

    assert sorted(set(names)) == sorted(names)


def test_every_row_has_a_source() -> None:
    """Where the wording comes from."""
    assert [] == [row.pattern.pattern for row in mail.ROWS if not row.source]


@pytest.mark.parametrize("reason", ["certificate has expired", "certificate is not yet valid"])
def test_a_certificates_time_and_a_clock(reason: str) -> None:
    """They look the same: both are said, with who renews. A clock that is known to be wrong is the cause."""
    said = f"the certificate of mail.example.org:993 is not trusted: {reason}"
    unknown = diagnose("imap", said, Evidence(host="mail.example.org"))[0]
    wrong = diagnose("imap", said, Evidence(host="mail.example.org", skew=-86_400.0))

    assert "this machine's clock is wrong: both look the same" in unknown.cause
    assert "`timedatectl`" in unknown.hint()
    assert "the administrator of mail.example.org has to" in " ".join(unknown.steps)
    assert ["clock-wrong", unknown.name] == [each.name for each in wrong[:2]]


def test_who_renews_microsofts_certificates() -> None:
    """Microsoft, unless a proxy in between has replaced them: no administrator of a company's."""
    said = "the certificate of outlook.office365.com:993 is not trusted: certificate has expired"

    assert "Microsoft (or, if a proxy in between" in " ".join(
        diagnose("imap", said, Evidence(host="outlook.office365.com"))[0].steps
    )


@pytest.mark.parametrize(
    ("protocol", "known", "command"),
    [
        ("smtp", Evidence(), "-connect HOST:587 -starttls smtp"),
        ("smtp", Evidence(host="m.test", port=2525, starttls=True), "-connect m.test:2525 -starttls smtp"),
        ("smtp", Evidence(host="m.test", port=465), "-connect m.test:465"),
        ("imap", Evidence(host="m.test"), "-connect m.test:993"),
        ("pop", Evidence(host="m.test", port=110, starttls=True), "-connect m.test:110 -starttls pop3"),
        ("imap", Evidence(host="::1", port=10143), "-connect '[::1]:10143'"),
    ],
)
def test_the_certificates_command_can_be_given_as_it_stands(protocol: str, known: Evidence, command: str) -> None:
    """With the port that was tried, and with STARTTLS where it begins in clear."""
    said = diagnose(protocol, "certificate verify failed: CERTIFICATE_VERIFY_FAILED", known)[0].steps

    assert [f"to see it: `openssl s_client {command} -showcerts`"] == [each for each in said if "openssl" in each]
