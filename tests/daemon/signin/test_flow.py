"""One sign-in: what a person may paste into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from support.sign_ins import GRANTED, SignInDaemon, grant, running
from support.trio_run import in_trio_clock

from cms.daemon.signin.flow import MAX_PASTED, Flow
from cms_oauth.providers import Server


@asynccontextmanager
async def pasting() -> AsyncIterator[tuple[SignInDaemon, Flow]]:
    async with running(SignInDaemon()) as daemon:
        flow = daemon.signins.start(grant(), "paste")
        with flow.held():
            await flow.prompt()
            yield daemon, flow


GOOD = "code=the-code&state=state-of-a%40example.test"


@pytest.mark.parametrize(
    "address",
    [
        f"https://login.example.test/common/oauth2/nativeclient?{GOOD}",
        f"http://localhost/anything#{GOOD}",
        "  http://127.0.0.1:8080/oauth2/msal?code=the-\n  code&state=state-of-a%40example.test  ",
        GOOD,
        f"?{GOOD}",
        f"#{GOOD}",
        f"localhost:8080/?{GOOD}",
        f'"http://localhost/?{GOOD}"',
        f"<http://localhost/?{GOOD}>",
        f"http://localhost/?{GOOD}.",
        f"\u201chttp://localhost/?{GOOD}\u201d,",
        f"`http://localhost/?{GOOD}`;",
        f"(http://localhost/?{GOOD}).",
        f"\u00abhttp://localhost/?{GOOD}\u00bb",
        f"[the page](http://localhost/?{GOOD})",
        f"The browser ends at <http://localhost/?{GOOD}>, it says.",
        f"Location: http://localhost/?{GOOD}",
        f'<a href="http://localhost/?{GOOD.replace("&", "&amp;")}">here</a>',
        f"'{GOOD}'",
        f"**http://localhost/?{GOOD}**",
        f"http://localhost/?{GOOD}!",
        f"http://localhost/?{GOOD}\u2026",
        f"| http://localhost/?{GOOD} |",
        f"http://localhost/?{GOOD}%22",
        f"http://localhost/\\?{GOOD.replace('&', chr(92) + '&')}",
    ],
)
@in_trio_clock
async def test_an_address_is_taken_whatever_its_path(address: str) -> None:
    """Only state and code matter; broken lines and a fragment are fine."""
    async with pasting() as (daemon, flow):
        said = await flow.pasted(address)
        outcome = await flow.outcome()

    assert ("", GRANTED) == (said, outcome)
    assert "the-code" == daemon.worker.sessions[0].fields[0]["code"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the-code", "no state"),
        ("https://x.test/?code=the-code", "no state"),
        ("https://x.test/?code=the-code&state=other", "belongs to another sign-in"),
        ("https://x.test/?code=the-code&state=\ud800", "belongs to another sign-in"),
        ("https://x.test/?state=state-of-a%40example.test", "neither a code nor an error"),
        ("https://x.test/?code=1&code=2", "not the address"),
        ("http://[x", "not the address"),
        ("x" * (MAX_PASTED + 1), "not the address"),
        ("", "no state"),
        ("AADSTS", "no state"),
        ("Request Id: 12345678-aadd", "no state"),
    ],
)
@in_trio_clock
async def test_what_will_not_do_is_refused_with_a_sentence(text: str, words: str) -> None:
    """A code alone, another sign-in's address or nonsense is refused, and the sign-in goes on waiting."""
    async with pasting() as (daemon, flow):
        said = await flow.pasted(text)

        assert words in said
        assert [] == daemon.worker.sessions[0].fields
        assert flow.end is None


@pytest.mark.parametrize(
    "address",
    [
        "https://login.microsoftonline.com/common/wrongplace",
        "login.microsoftonline.com/common/wrongplace",
        "https://login.live.com/oauth20_desktop.srf?removed=true",
        "https://login.microsoftonline.com/common/oauth2/nativeclient",
        "https://login.microsoftonline.com/5a5a5a5a-0000-4000-8000-000000000001/oauth2/nativeclient#",
        "https://login.microsoftonline.us/common/wrongplace?session_state=1",
        "https://login.windows.net/organizations/oauth2/nativeclient?",
        "The browser is at <https://login.live.com/oauth20_desktop.srf?lc=1031&removed=true>.",
    ],
)
@in_trio_clock
async def test_microsofts_page_has_taken_the_code(address: str) -> None:
    """It is said what happened and which way works, and the sign-in goes on waiting."""
    async with pasting() as (daemon, flow):
        said = await flow.pasted(address)

        assert said.startswith("Microsoft's page has taken the code out of this address")
        assert "`cms login a@example.test --device`" in said
        assert 'redirect_uri="http://localhost"' in said
        assert ([], None) == (daemon.worker.sessions[0].fields, flow.end)


@in_trio_clock
async def test_a_page_of_microsofts_that_left_the_code_is_taken() -> None:
    """Where the code is still in the address, nothing stands in the way."""
    async with pasting() as (_, flow):
        assert "" == await flow.pasted(f"https://login.live.com/oauth20_desktop.srf?{GOOD}")


@pytest.mark.parametrize(
    ("text", "number", "hint"),
    [
        ("AADSTS50105: Your administrator told <a>you</a> no.", 50105, "ask the administrator to assign the user"),
        ("Message: aadsts90094: eve=1&x=2", 90094, "`cms admin-consent-url a@example.test`"),
        ("More details: Error Code: 53003 Request Id: 12345", 53003, "start again: `cms login a@example.test`"),
        ("AADSTS700016", 700016, "`cms login a@example.test`"),
        ("AADSTS99999", 99999, "`cms login a@example.test`"),
        ("https://x.test/?error=a&error_description=AADSTS65005&state=other", 65005, "registration"),
    ],
)
@in_trio_clock
async def test_an_error_page_is_explained(text: str, number: int, hint: str) -> None:
    """It is explained by its number, with the next move. The page is not quoted, and the sign-in goes on waiting."""
    async with pasting() as (daemon, flow):
        said = await flow.pasted(text)

        assert f"(AADSTS{number})" in said
        assert hint in said
        assert said.endswith("The sign-in is still waiting. Ctrl-C cancels it.")
        assert not [word for word in ("Your", "eve", "12345", "error_description") if word in said]
        assert ([], None) == (daemon.worker.sessions[0].fields, flow.end)
        assert "" == await flow.pasted(GOOD)


@in_trio_clock
async def test_another_providers_page_has_no_number_of_entras() -> None:
    """What looks like one is not explained as Entra's."""
    async with pasting() as (_, flow):
        flow.grant = replace(flow.grant, provider="google", server=Server())
        said = await flow.pasted("AADSTS50105")

    assert "AADSTS" not in said
    assert "paste the whole address" in said


@in_trio_clock
async def test_an_address_with_an_error_is_the_end() -> None:
    """An error that Entra redirected with goes to the worker, even if it has a number."""
    fields = {"error": "access_denied", "error_description": "AADSTS65004: no", "state": "state-of-a@example.test"}
    async with pasting() as (daemon, flow):
        said = await flow.pasted(f"https://x.test/?{urlencode(fields)}")

    assert ("", [fields]) == (said, daemon.worker.sessions[0].fields)


@in_trio_clock
async def test_pasting_too_early_is_another_sign_in() -> None:
    """Before there is a prompt no address can be its end."""
    flow = Flow(grant(), "paste")
    await flow.redirected({"code": "x"})

    assert "belongs to another sign-in" in await flow.pasted(f"https://x.test/?{GOOD}")
