"""Sign-ins: one for each grant, told apart by state, cancelled with their last holder, and what the page answers."""

from __future__ import annotations

import html
import os
import re
import shlex
import socket
from dataclasses import replace

import pytest
import trio
from support.sign_ins import GRANTED, SECRET, SignInDaemon, browsing, cards_of, grant, running, visit
from support.trio_run import in_trio, in_trio_clock

from cms.core.lifecycle import Refused, Transient, Trouble
from cms.daemon.signin import pages
from cms.daemon.signin.flow import FLOW_SECONDS, explained
from cms.daemon.signin.page_files import SCRIPT
from cms.grants.messages import Prompt
from cms_oauth.moves import cms, commands_of
from cms_oauth.providers import Server

REFUSED = Refused(Trouble("refused", "consent is required", "ask your administrator"))
BACK = "/back?code=the-code&state=state-of-a@example.test"


@in_trio
async def test_a_browser_comes_back_and_is_told_that_it_worked() -> None:
    """The redirect's fields reach the worker, and its outcome the page, the registry and the holder."""
    async with browsing() as (daemon, flow):
        status, page = await visit(flow, BACK)
        outcome = await flow.outcome()

    assert [{"code": "the-code", "state": "state-of-a@example.test"}] == daemon.worker.sessions[0].fields
    assert (200, GRANTED) == (status, outcome)
    assert "A@example.test is signed in" in page
    assert SECRET not in page
    assert [(grant(), GRANTED)] == daemon.registry.ends
    assert 1 == len(daemon.registry.prompts)


@in_trio
async def test_a_form_post_works_as_well() -> None:
    """Entra may send the fields as a form, from its own origin."""
    async with browsing() as (daemon, flow):
        form = "code=the-code&state=state-of-a%40example.test"
        status, _ = await visit(flow, "/back", method="POST", form=form, origin="https://login.example.test")

    assert 200 == status
    assert "the-code" == daemon.worker.sessions[0].fields[0]["code"]


@in_trio
async def test_a_failure_is_told_with_its_next_move() -> None:
    """What the provider refused is on the page, message and hint."""
    async with browsing() as (daemon, flow):
        daemon.worker.sessions[0].end = REFUSED
        _, page = await visit(flow, "/back?error=access_denied&state=state-of-a@example.test")

    assert "consent is required" in page
    assert "ask your administrator" in page


@in_trio
async def test_the_end_is_in_the_log_with_its_next_move(capsys: pytest.CaptureFixture[str]) -> None:
    """The log alone says what happened and what to do."""
    async with browsing() as (daemon, flow):
        daemon.worker.sessions[0].end = REFUSED
        await visit(flow, "/back?error=access_denied&state=state-of-a@example.test")
    ended = next(line for line in capsys.readouterr().out.splitlines() if "sign-in ended" in line)

    assert "consent is required" in ended
    assert "ask your administrator" in ended


@pytest.mark.parametrize(
    "target",
    [
        "/back?code=x&state=wrong",
        "/back?code=x&state=",
        "/back?code=x&state=%C3%A4",
        "/other?code=x&state=state-of-a@example.test",
        "/back?code=x&state=a&state=state-of-a@example.test",
    ],
)
@in_trio
async def test_a_redirect_that_is_not_ours_changes_nothing(target: str) -> None:
    """A wrong state or path is refused, and the answer does not say what would be right."""
    async with browsing() as (daemon, flow):
        status, page = await visit(flow, target)

    assert 400 == status
    assert [] == daemon.worker.sessions[0].fields
    assert "example.test" not in page


@in_trio
async def test_a_repeated_redirect_counts_once() -> None:
    """A browser that asks twice brings one code."""
    async with browsing() as (daemon, flow):
        await flow.redirected({"code": "one"})
        await flow.redirected({"code": "two"})

    assert [{"code": "one"}] == daemon.worker.sessions[0].fields


@in_trio
async def test_the_last_page_can_be_loaded_again() -> None:
    """A browser that repeats the redirect gets the same page, and the worker hears of it once."""
    async with browsing(lambda: [grant("b@example.test")]) as (daemon, flow):
        _, first = await visit(flow, BACK)
        await flow.outcome()
        status, again = await visit(flow, BACK)

    assert (200, first) == (status, again)
    assert 1 == len(daemon.worker.sessions[0].fields)


@in_trio
async def test_a_redirect_after_an_end_without_one_is_too_late() -> None:
    """A browser that comes back to a cancelled sign-in shows how it ended, and the worker hears nothing."""
    async with browsing() as (daemon, flow):
        assert flow.address is not None
        # Another sign-in keeps the port open.
        beside = daemon.signins.start(replace(OTHER, redirect_uri=flow.address.redirect_uri), "browser")
        with beside.held():
            await beside.prompt()
            daemon.signins.start(grant(), "device")
            status, page = await visit(flow, BACK)

    assert 200 == status
    assert "a newer sign-in with --device replaced this one" in page
    assert [] == daemon.worker.sessions[0].fields


@in_trio
async def test_a_stranger_is_not_served() -> None:
    """Another user's browser, or one whose user cannot be found, gets a refusal."""
    for uid in (os.getuid() + 1, -1):
        async with browsing(uid=uid) as (daemon, flow):
            daemon.uid = None if uid < 0 else uid
            status, page = await visit(flow, BACK)

        assert (403, []) == (status, daemon.worker.sessions[0].fields)
        assert ("status" not in page, True) == (True, "paste it into the terminal" in page)


@in_trio
async def test_root_is_served() -> None:
    """Root could read it all anyway, and some desktops' forwarders run as root."""
    async with browsing() as (daemon, flow):
        daemon.uid = 0
        status, _ = await visit(flow, "/")

    assert 200 == status


@in_trio
async def test_a_foreign_host_name_is_refused() -> None:
    """A foreign name that DNS points at 127.0.0.1 is refused."""
    async with browsing() as (daemon, flow):
        status, _ = await visit(flow, BACK, host="evil.example.test:80")

    assert (400, []) == (status, daemon.worker.sessions[0].fields)


@pytest.mark.parametrize(("method", "target", "expected"), [("GET", "/favicon.ico", 404), ("PUT", "/", 405)])
@in_trio
async def test_there_is_nothing_else(method: str, target: str, expected: int) -> None:
    """Other paths and methods are refused."""
    async with browsing() as (_, flow):
        status, _ = await visit(flow, target, method=method)

    assert expected == status


@in_trio
async def test_a_form_that_is_no_text_is_refused() -> None:
    """A body is ASCII."""
    async with browsing() as (_, flow):
        status, _ = await visit(flow, "/back", method="POST", form="ä")

    assert 400 == status


# --- the page ---

OTHER = grant("b@example.test", "http://127.0.0.1/back")
UNNAMED = grant("")
NOT_HERE = grant("d@example.test", "https://localhost")


@in_trio
async def test_the_page_shows_a_card_for_each_account() -> None:
    """A flow under way has a link, the others that wait a button."""
    async with browsing(lambda: [grant(), OTHER, UNNAMED]) as (_, flow):
        status, page = await visit(flow, "/")
    cards = cards_of(page)

    assert (200, ["a@example.test", "b@example.test", "whoever signs in"]) == (status, list(cards))
    assert 'aria-label="Continue the sign-in of a@example.test"' in cards["a@example.test"]
    assert f'value="{OTHER.key}"><button type="submit"' in cards["b@example.test"]
    assert "3 accounts need you." in page
    assert "state-of" not in page


@in_trio
async def test_accounts_of_one_sign_in_have_one_button() -> None:
    """Mailboxes that one person's sign-in opens say so, and the person's own has the button, wherever the list has it."""
    async with browsing(lambda: [OTHER]) as (daemon, flow):
        well, waits = daemon.registry.config.accounts
        shared = replace(waits, user="shared@example.test")
        daemon.registry.config = replace(daemon.registry.config, accounts=(shared, well, waits))
        _, page = await visit(flow, "/")
    cards = cards_of(page)

    assert ["a@example.test", "b@example.test", "shared@example.test"] == list(cards)
    assert "<button" in cards["b@example.test"]
    assert 1 == page.count("<button")
    assert "It is signed in together with b@example.test." in cards["shared@example.test"]


@in_trio
async def test_a_crowd_of_accounts_is_cut() -> None:
    """The page shows so many cards, those that wait among them, and how many more there are."""
    many = [grant(f"{number}@example.test") for number in range(pages.MOST_CARDS + 5)]
    async with browsing(lambda: many[-3:]) as (daemon, flow):
        accounts = daemon.registry.config.accounts
        crowd = tuple(replace(accounts[0], user=each.login, grant=each) for each in many)
        daemon.registry.config = replace(daemon.registry.config, accounts=crowd)
        _, page = await visit(flow, "/")

    assert (pages.MOST_CARDS, 3) == (len(cards_of(page)), page.count("<button"))
    assert "And 5 more" in page


@in_trio
async def test_the_script_is_a_file_of_its_own() -> None:
    """The page's only script comes from the page's own server, as a script."""
    async with browsing() as (_, flow):
        _, page = await visit(flow, "/")
        status, script = await visit(flow, pages.SCRIPT_PATH)

    assert (1, 200, SCRIPT) == (page.count("<script"), status, script)
    assert f'<script src="{pages.SCRIPT_PATH}" defer></script>' in page


@in_trio
async def test_a_button_starts_a_flow_and_goes_on_to_the_provider() -> None:
    """A POST from our own page starts the other account's sign-in, and no client has to hold it."""
    async with browsing(lambda: [OTHER]) as (daemon, flow):
        assert flow.address is not None
        origin = f"http://127.0.0.1:{flow.address.port}"
        status, page = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)
        session = daemon.worker.sessions[-1]

        assert (200, "b@example.test") == (status, session.grant.login)
        assert "url=https://login.example.test/authorize?login_hint=b@example.test" in page
        assert daemon.signins.awaited(OTHER).startswith("open http://127.0.0.1:")


@pytest.mark.parametrize("origin", ["", "https://evil.example.test", "http://evil.example.test", "null", "127.0.0.1:1"])
@in_trio
async def test_only_our_own_page_starts_flows(origin: str) -> None:
    """Another site's form, or one without an origin, starts nothing."""
    async with browsing(lambda: [OTHER]) as (daemon, flow):
        status, _ = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)

    assert (403, 1) == (status, len(daemon.worker.sessions))


@in_trio
async def test_only_who_waits_can_be_started() -> None:
    """A grant that is signed in, or is unknown, cannot be started from the page."""
    async with browsing() as (daemon, flow):
        assert flow.address is not None
        origin = f"http://127.0.0.1:{flow.address.port}"
        status, _ = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)

    assert (404, 1) == (status, len(daemon.worker.sessions))


@in_trio
async def test_a_flow_that_cannot_start_says_so_on_the_page() -> None:
    """A sign-in that ends before its prompt is answered with a page too."""
    async with browsing(lambda: [OTHER]) as (daemon, flow):
        assert flow.address is not None
        daemon.worker.early = Transient(Trouble("network", "the provider cannot be reached"))
        origin = f"http://127.0.0.1:{flow.address.port}"
        status, page = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)

    assert 200 == status
    assert "the provider cannot be reached" in page


@in_trio
async def test_after_one_account_the_page_leads_to_the_next() -> None:
    """The page stays up for the other accounts that wait, and lists them."""
    async with browsing(lambda: [OTHER]) as (_, flow):
        _, page = await visit(flow, BACK)
        await flow.outcome()
        status, _ = await visit(flow, "/")

    assert f'value="{OTHER.key}"' in page
    assert 200 == status


@in_trio
async def test_two_flows_share_a_port_and_are_told_apart() -> None:
    """The state says whose redirect it is."""
    async with browsing() as (daemon, flow):
        assert flow.address is not None
        there = replace(OTHER, redirect_uri=f"http://127.0.0.1:{flow.address.port}/back")
        second = daemon.signins.start(there, "browser")
        with second.held():
            await second.prompt()
            await visit(flow, "/back?code=for-b&state=state-of-b@example.test")
            await second.outcome()

    assert ([], "for-b") == (daemon.worker.sessions[0].fields, daemon.worker.sessions[1].fields[0]["code"])


@in_trio
async def test_the_redirect_address_gets_the_port_that_is_listened_at() -> None:
    """A registration of http://127.0.0.1/back matches any port: the worker is told which."""
    async with browsing() as (daemon, flow):
        assert flow.address is not None
        expected = f"http://127.0.0.1:{flow.address.port}/back"

    assert expected == daemon.worker.sessions[0].grant.redirect_uri


@in_trio
async def test_a_sign_in_meets_what_its_provider_asked_for() -> None:
    """The worker is given the conditional-access challenge that the registry has of the grant, by every method."""
    async with browsing() as (daemon, _):
        flow = daemon.signins.start(OTHER, "device")
        with flow.held():
            await flow.prompt()

    asked = [(each.method, each.claims) for each in daemon.worker.sessions]
    assert [("browser", f"challenge of {grant().login}"), ("device", f"challenge of {OTHER.login}")] == asked


@in_trio_clock
async def test_a_redirect_that_leads_nowhere_here_is_pasted() -> None:
    """cms cannot listen at https://localhost: the sign-in is by pasting instead, and says why."""
    async with running(SignInDaemon()) as daemon:
        flow = daemon.signins.start(grant(redirect_uri="https://localhost"), "browser")
        with flow.held():
            shown = await flow.prompt()
            again = daemon.signins.start(grant(redirect_uri="https://localhost"), "browser")

            assert isinstance(shown, Prompt)
            assert ("paste", "paste", flow) == (flow.method, shown.method, again)
            assert "https://localhost is not plain HTTP on this machine" in flow.instead
            assert "" == flow.page


@in_trio
async def test_a_window_of_the_brokers_is_where_to_go() -> None:
    """Nothing listens for it, and no link leads to it."""
    async with running(SignInDaemon()) as daemon:
        flow = daemon.signins.start(grant(), "broker")
        with flow.held():
            assert isinstance(await flow.prompt(), Prompt)
            awaited = daemon.signins.awaited(grant())

    assert ("", "sign in in the window that Microsoft's broker has opened on this machine's desktop") == (
        flow.page,
        awaited,
    )


@in_trio
async def test_a_port_in_use_ends_the_flow_with_the_ways_around() -> None:
    """The message names the other ways to sign in."""
    async with running(SignInDaemon()) as daemon:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"http://127.0.0.1:{other.getsockname()[1]}/back"
            flow = daemon.signins.start(grant(redirect_uri=taken), "browser")
            with flow.held():
                end = await flow.prompt()

    assert isinstance(end, Refused)
    assert "--device or --paste" in end.trouble.hint
    assert [] == daemon.worker.sessions


@in_trio
async def test_settling_waits_for_the_last_page() -> None:
    """Without a daemon the command waits a moment for the browser's last page."""
    async with browsing() as (daemon, _):
        await daemon.signins.settle()


# --- flows without a browser, on a clock that jumps ---


@in_trio_clock
async def test_one_flow_for_each_grant_and_method() -> None:
    """A second login joins the first and gets the same prompt."""
    async with running(SignInDaemon()) as daemon:
        first = daemon.signins.start(grant(), "device")
        with first.held():
            second = daemon.signins.start(grant(), "device")
            shown = await second.prompt()

        assert first is second
        assert isinstance(shown, Prompt)
        assert "ABCD-1234" in daemon.signins.awaited(grant())


@in_trio_clock
async def test_another_method_takes_the_place() -> None:
    """A login with --paste replaces one with --device, which is told why it ended."""
    async with running(SignInDaemon()) as daemon:
        first = daemon.signins.start(grant(), "device")
        with first.held():
            await first.prompt()
            second = daemon.signins.start(grant(), "paste")
            with second.held():
                end = await first.outcome()
                shown = await second.prompt()
                await trio.testing.wait_all_tasks_blocked()

                assert isinstance(end, Refused)
                assert "--paste" in end.trouble.message
                assert isinstance(shown, Prompt)
                assert [daemon.worker.sessions[0]] == daemon.worker.left
                (command,) = commands_of(daemon.signins.awaited(grant()))
                assert str(cms("login", grant().login, "--paste")) == str(command)


@in_trio_clock
async def test_a_flow_ends_with_its_last_holder() -> None:
    """When the last client that asked has left, the worker's sign-in is cancelled."""
    async with running(SignInDaemon()) as daemon:
        flow = daemon.signins.start(grant(), "device")
        with flow.held():
            with daemon.signins.start(grant(), "device").held():
                await flow.prompt()
            await trio.testing.wait_all_tasks_blocked()

            assert flow.end is None
        end = await flow.outcome()

        assert isinstance(end, Refused)
        assert "cancelled" == end.trouble.kind
        assert daemon.worker.sessions == daemon.worker.left
        assert "" == daemon.signins.awaited(grant())


@in_trio_clock
async def test_a_flow_that_is_about_to_end_is_not_joined() -> None:
    """Who gives up and begins again at once gets a new sign-in, while the worker still lets go of the first."""
    async with running(SignInDaemon()) as daemon:
        first = daemon.signins.start(grant(), "device")
        with first.held():
            await first.prompt()
        second = daemon.signins.start(grant(), "device")
        with second.held():
            shown, end = await second.prompt(), await first.outcome()
            await trio.testing.wait_all_tasks_blocked()

            assert isinstance(shown, Prompt)
            assert isinstance(end, Refused)
            assert (None, "cancelled") == (second.end, end.trouble.kind)
            assert [(grant(), end)] == daemon.registry.ends
            assert [daemon.worker.sessions[0]] == daemon.worker.left


@in_trio_clock
async def test_a_sign_in_has_ten_minutes() -> None:
    """A sign-in that is not completed ends after ten minutes."""
    async with running(SignInDaemon()) as daemon:
        before = trio.current_time()
        flow = daemon.signins.start(grant(), "device")
        with flow.held():
            end = await flow.outcome()

        assert FLOW_SECONDS == trio.current_time() - before
        assert isinstance(end, Refused)
        assert "expired" == end.trouble.kind


@in_trio_clock
async def test_a_device_code_that_ran_out_may_have_been_blocked() -> None:
    """A policy shows in the browser only, so the hint names it and the other ways; cms or Entra may notice the time."""
    async with running(SignInDaemon()) as daemon:
        ends = []
        for early in (None, Refused(Trouble("expired", "the code has expired", "again"))):
            daemon.worker.early = early
            flow = daemon.signins.start(grant(), "device")
            with flow.held():
                ends.append(await flow.outcome())

        for end in ends:
            assert isinstance(end, Refused)
            assert "expired" == end.trouble.kind
            for word in ("authentication flows", "53003", "`cms login a@example.test --browser`", "--paste`"):
                assert word in end.trouble.hint


@pytest.mark.parametrize("method", ["browser", "paste"])
@in_trio_clock
async def test_a_sign_in_without_an_answer_may_have_been_refused(method: str) -> None:
    """The hint names an administrator's approval and what to do with a number; cms or Entra may notice the time."""
    async with running(SignInDaemon()) as daemon:
        ends = []
        for early in (None, Refused(Trouble("expired", "not in time", "again"))):
            daemon.worker.early = early
            flow = daemon.signins.start(grant(), method)
            with flow.held():
                ends.append(await flow.outcome())

        for end in ends:
            assert isinstance(end, Refused)
            assert "expired" == end.trouble.kind
            for word in (
                "`cms login a@",
                "need admin approval",
                "`cms admin-consent-url a@",
                "paste",
                "docs/troubleshooting.md",
            ):
                assert word in end.trouble.hint


@in_trio_clock
async def test_another_providers_expired_sign_in_knows_no_page_of_microsofts() -> None:
    """Of its pages only what people see is known."""
    expired = Refused(Trouble("expired", "not in time", "again"))
    async with running(SignInDaemon()) as daemon:
        flow = daemon.signins.start(grant(), "device")
        flow.grant = replace(flow.grant, provider="google", server=Server())
        end = explained(expired, flow)

    assert isinstance(end, Refused)
    assert "look for its words in docs/troubleshooting.md" in end.trouble.hint
    assert "AADSTS" not in end.trouble.hint


@in_trio_clock
async def test_another_end_of_a_device_code_keeps_its_own_hint() -> None:
    """Only an expired code gets that explanation."""
    async with running(SignInDaemon()) as daemon:
        daemon.worker.early = REFUSED
        flow = daemon.signins.start(grant(), "device")
        with flow.held():
            assert REFUSED == await flow.outcome()


@in_trio_clock
async def test_a_sign_out_gives_the_flow_up() -> None:
    """An account that was signed out or left the configuration cannot be signed in by an old prompt."""
    async with running(SignInDaemon()) as daemon:
        flow = daemon.signins.start(grant(), "device")
        flow.keep()
        await flow.prompt()
        daemon.signins.cancel(grant())
        daemon.signins.cancel(OTHER)
        end = await flow.outcome()

    assert isinstance(end, Refused)


@in_trio_clock
async def test_a_flow_that_never_gets_to_a_prompt_ends_there() -> None:
    """prompt() gives the end where there was nothing to show."""
    async with running(SignInDaemon()) as daemon:
        daemon.worker.early = REFUSED
        flow = daemon.signins.start(grant(), "device")
        with flow.held():
            assert "" == daemon.signins.awaited(grant())
            assert REFUSED == await flow.prompt()


@in_trio_clock
async def test_stopping_ends_every_flow() -> None:
    """Clients that wait for a sign-in when cms stops are told that it ended."""
    daemon = SignInDaemon()
    async with running(daemon):
        flow = daemon.signins.start(grant(), "device")
        flow.keep()
        await flow.prompt()

    assert isinstance(flow.end, Refused)


@pytest.mark.parametrize("complete", ["", "https://login.example.test/device?user_code=ABCD-1234"])
@in_trio
async def test_the_page_leads_to_where_a_code_is_entered(complete: str) -> None:
    """With a button where the provider has an address with the code in it; what the page there should show is said."""
    device = replace(grant("e@example.test"), sign_in="device")
    async with browsing(lambda: [device, grant()]) as (daemon, flow):
        daemon.worker.complete_url = complete
        started = daemon.signins.start(device, "device")
        with started.held():
            await started.prompt()
            _, page = await visit(flow, "/")
            awaited = daemon.signins.awaited(device)

    card = cards_of(page)["e@example.test"]
    assert (f'href="{complete}"' in card) == bool(complete)
    assert ("The page there shows the code ABCD-1234, or asks for it." in card) == bool(complete)
    expected = (
        f"open {complete} anywhere and check that it shows ABCD-1234" if complete else "anywhere and enter ABCD-1234"
    )
    assert awaited.endswith(expected)


@in_trio
async def test_the_page_says_who_cannot_be_signed_in_there() -> None:
    """An account that uses no browser, or redirects elsewhere, has a command instead of a button, and cannot be started."""
    device = replace(grant("e@example.test"), sign_in="device")
    begun = replace(grant("a@example.test"), sign_in="paste")
    odd = replace(grant("o'connor@example.test"), sign_in="device")
    async with browsing(lambda: [NOT_HERE, grant("", "https://localhost"), device, odd, begun]) as (daemon, flow):
        assert flow.address is not None
        _, page = await visit(flow, "/")
        origin = f"http://127.0.0.1:{flow.address.port}"
        for one in (NOT_HERE, device):
            status, _ = await visit(flow, "/start", method="POST", form=f"grant={one.key}", origin=origin)
            assert 404 == status

    cards = cards_of(page)

    assert "Run <code>cms login d@example.test --paste</code> in a terminal." in cards["d@example.test"]
    assert "Run <code>cms login --paste</code> in a terminal." in cards["whoever signs in"]
    assert "Run <code>cms login e@example.test</code> in a terminal." in cards["e@example.test"]
    (quoted,) = re.findall("Run <code>(.*?)</code>", html.unescape(cards["o'connor@example.test"]))
    assert ["cms", "login", "o'connor@example.test"] == shlex.split(quoted)
    # It has been begun in a browser all the same.
    assert "terminal" not in cards["a@example.test"]
    assert 1 == len(daemon.worker.sessions)
