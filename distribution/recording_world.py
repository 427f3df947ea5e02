"""The accounts of the picture of `cms status`: a sandbox with a daemon, until standard input ends.

It prints the variables for a program that is to ask this daemon, as JSON, when every account is in its last state.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time

from cms.sandbox.directory import APP_ID, APP_SECRET, CLIENT_ID, TENANT, Client
from cms.sandbox.stage import Failed, Stage, run_demo

OWN = "22222222-0000-4000-8000-000000000001"
TEAMS = [f"{name}@domain.com" for name in ("accounts", "hr", "info", "jobs", "orders", "press", "sales", "support")]
PERSON, AWAY, RELAY = "user@domain.com", "away@domain.com", "relay@domain.com"

_CONFIG = """\
office = {{"authority": {authority!r}, "redirect_uri": "http://localhost/", "protocols": ["SMTP", "IMAP"]}}
application = {{"sign_in": "app", "tenant": {tenant!r}, "authority": {authority!r}, "protocols": ["SMTP", "IMAP"]}}
accounts = [
    *(Office365_Account(each, client_id={client!r}, **office) for each in {people!r}),
    *(Office365_Account(each, client_id={app!r}, client_secret=File({good!r}), **application) for each in {teams!r}),
    Office365_Account({relay!r}, client_id={own!r}, client_secret=File({bad!r}), **application),
]
CredentialServer({socket!r}, accounts=accounts, protocols=["SMTP", "IMAP"])
Vault(key=File({key!r}))
Tls(ca={ca!r})
"""

_SECONDS = 60.0


def main() -> int:
    """Keep the world; return the exit status."""
    shown = io.StringIO()
    status = run_demo(shown, _office)
    if status:
        print(shown.getvalue(), file=sys.stderr)
    return status


def _office(stage: Stage) -> None:
    """Eight mailboxes of one application, two people of whom one has not signed in, and an application without access."""
    for each in (PERSON, AWAY):
        stage.entra.add_user(each)
    stage.entra.register(Client(OWN, (), secret=APP_SECRET))
    files = {"good": APP_SECRET, "bad": "an old secret", "key": os.urandom(16).hex()}
    for name, content in files.items():
        (stage.folder / name).touch(mode=0o600)
        (stage.folder / name).write_text(content)
    stage.config.parent.mkdir(mode=0o700)
    stage.config.write_text(
        _CONFIG.format(
            authority=stage.entra.authority,
            tenant=TENANT,
            client=CLIENT_ID,
            people=[PERSON, AWAY],
            app=APP_ID,
            teams=TEAMS,
            relay=RELAY,
            own=OWN,
            socket=str(stage.socket),
            ca=str(stage.ca),
            **{name: str(stage.folder / name) for name in files},
        )
    )
    with stage.daemon():
        stage.sign_in(PERSON)
        until = time.monotonic() + _SECONDS
        while {"starting", "renewing"} & _states(stage):
            if time.monotonic() > until:
                raise Failed("an account is in no state for a picture")
            time.sleep(0.1)
        places = ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
        print(json.dumps({name: stage.environment[name] for name in places}), flush=True)
        sys.stdin.read()


def _states(stage: Stage) -> set[str]:
    return {each["state"] for each in json.loads(stage.run("cms", "status", "--json"))["accounts"]}


if __name__ == "__main__":
    raise SystemExit(main())
