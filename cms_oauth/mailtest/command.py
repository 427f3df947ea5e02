"""`cms-oauth --test-...` from the token to the exit status: the test, another token where one may help, and the verdict.

The dialogue and the verdict go to stderr. stdout stays empty, except that `--output=json` puts all of it there as one
object: `ok`, `reply`, `verdicts`, `evidence`, `trace`, and `error` where the test failed. No token is in it.
"""

from __future__ import annotations

import json
import os
import sys

from cms_oauth import dial, tls, wire
from cms_oauth.diagnosis import lookup
from cms_oauth.diagnosis.verdicts import UNKNOWN
from cms_oauth.documents import located
from cms_oauth.fetch import Credential, Options, fetch, report, write
from cms_oauth.mailtest import run as mailtest


def run(options: Options, answer: Credential | dial.Failed) -> int:
    """Test the login with what the daemon answered; return the exit status."""
    if isinstance(answer, dial.Failed):
        verdicts = lookup.of_client(answer.code, answer.message, options.user)
        return _end(options, mailtest.Report(answer, verdicts=verdicts))
    for ignored in tls.misnamed(os.environ, (*tls.OPENSSLS, *tls.SETTINGS)):
        _say(f"{ignored}; OpenSSL ignores it")
    outcome = mailtest.run(options.test, options.host, answer.user, answer.token)
    if outcome.stale:
        outcome = _with_another(options, answer, outcome)
    return _end(options, outcome)


def _with_another(options: Options, refused: Credential, outcome: mailtest.Report) -> mailtest.Report:
    """Ask cms once for another token and test that; report it."""
    known = lookup.is_stale(outcome.verdicts)
    why = "says that this token is no longer valid" if known else "does not say why it refuses this token"
    _say(f"the server {why}; asking cms for another one")
    answer = fetch(options, dial.now() + wire.CLIENT_SECONDS, refused.token)
    if isinstance(answer, dial.Failed):
        _say(f"{answer.message} - {answer.hint}")
        return outcome
    again = mailtest.run(options.test, options.host, answer.user, answer.token)
    if again.failed and again.reply:
        _say("the server refused a new token too")
    again.trace[:0] = outcome.trace
    return again


def _end(options: Options, outcome: mailtest.Report) -> int:
    """Show the verdict, and print everything as JSON if that was requested."""
    for line in _explained(outcome):
        _say(line, prefix="")
    if options.output == "json":
        status = write(json.dumps(_as_data(outcome)) + "\n")
        if status:
            return status
    return report(outcome.failed) if outcome.failed else 0


def _explained(outcome: mailtest.Report) -> list[str]:
    """Return what the verdicts say, and the identifiers for support."""
    if not outcome.verdicts or not outcome.evidence.host:
        # A failure of the client itself is reported in one line, as without a test.
        return []
    lines = lookup.all_lines(outcome.verdicts)
    support = f"for Microsoft's support: {' '.join(lookup.identifiers_of(outcome.reply))}"
    # An unknown reply has them among its steps.
    return lines if support.endswith(": ") or outcome.verdicts[0].name == UNKNOWN else [*lines, support]


def _as_data(outcome: mailtest.Report) -> dict[str, object]:
    failed = outcome.failed
    data: dict[str, object] = {
        "ok": failed is None,
        "reply": outcome.reply,
        "verdicts": [lookup.as_data(each) for each in outcome.verdicts],
        "evidence": lookup.evidence_data(outcome.evidence),
        "trace": outcome.trace,
    }
    if failed:
        data["error"] = {"code": failed.code, "message": failed.message, "hint": failed.hint}
    return data


def _say(line: str, prefix: str = "cms-oauth: ") -> None:
    print(prefix + located(lookup.printable(line)), file=sys.stderr, flush=True)
