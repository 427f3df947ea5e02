"""Sign-ins with a person at a provider that is not Microsoft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest
from support.grants import ANN
from support.worlds import REDIRECT, World, code_flow, device_flow, token, trouble

from cms.core.lifecycle import Refused, Transient
from cms.grants.exchange import SIGN_IN_SECONDS
from cms.sandbox.faults import Fault
from cms.sandbox.habits import CLIENT_ID, GOOGLE_MAIL
from cms.sandbox.issuer import Issuer
from cms.sandbox.tokens import s256
from cms.sandbox.web import WebReply, WebRequest


def asked(world: World) -> dict[str, str]:
    """Return the parameters of the address where a person signs in."""
    return dict(parse_qsl(urlsplit(code_flow(world.begin()).url).query))


def changed(world: World, **more: object) -> World:
    """Return a world whose grant knows other things of its server."""
    assert world.grant.server
    return replace(world, grant=replace(world.grant, server=replace(world.grant.server, **more)))  # type: ignore[arg-type]  # the test's own names


class TestCode:
    def test_what_is_asked_of_google(self, at_google: World) -> None:
        """All that gives a refresh token there, the person's name, and PKCE."""
        found = asked(at_google)
        challenge, state, nonce = (found.pop(name) for name in ("code_challenge", "state", "nonce"))

        assert {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": REDIRECT,
            "scope": f"{GOOGLE_MAIL} openid email",
            "access_type": "offline",
            "prompt": "consent",
            "login_hint": ANN,
            "code_challenge_method": "S256",
        } == found
        assert 43 == len(challenge)
        assert len(state) == len(nonce) == 32

    def test_nothing_is_said_twice(self, at_google: World) -> None:
        """Each sign-in has its own state, nonce and verifier."""
        one, two = asked(at_google), asked(at_google)

        assert not {one[name] for name in ("state", "nonce", "code_challenge")} & set(two.values())

    def test_prompts_add_up(self, at_strict: World) -> None:
        """The account's own does not cost the refresh token."""
        world = changed(at_strict, parameters=(("prompt", "select_account"),))

        assert "select_account consent" == asked(world)["prompt"]

    def test_offline_access_needs_consent(self, at_strict: World) -> None:
        """Without it the server leaves the refresh token out, and says nothing (OpenID Connect Core, 11)."""
        assert "consent" == asked(at_strict)["prompt"]

    def test_what_is_left_out(self, at_strict: World) -> None:
        """No nonce without an id token, no challenge for a server that cannot have one, no hint without a user."""
        world = changed(at_strict, identity=(), pkce=False)
        world = replace(world, grant=replace(world.grant, login=""))

        assert {"response_type", "client_id", "redirect_uri", "scope", "state"} == asked(world).keys()

    def test_an_endpoint_with_parameters_of_its_own(self, at_strict: World, strict: Issuer) -> None:
        """They stay."""
        world = changed(at_strict, authorization_endpoint=f"{strict.authority}/authorize?policy=mail")

        assert "mail" == asked(world)["policy"]

    def test_without_pkce(self, at_strict: World, strict: Issuer) -> None:
        """A server that knows none gives a token all the same."""
        strict.habits.needs_pkce = False

        assert token(changed(at_strict, pkce=False).sign_in())

    def test_the_verifier_is_the_challenges(self, at_google: World, google: Issuer) -> None:
        """A code is worth nothing without it."""
        flow = code_flow(at_google.begin())
        challenge = dict(parse_qsl(urlsplit(flow.url).query))["code_challenge"]
        page = google.sign_in(flow.url, ANN, follow=False)
        flow._verifier = "x" * 43  # type: ignore[attr-defined]  # as a thief of the code would have none
        end = flow.finish(page.fields)

        assert challenge != s256("x" * 43)
        assert isinstance(end.outcome, Refused)

    @pytest.mark.parametrize("fields", [{"iss": "https://evil.example"}, {"state": ""}, {"code": ""}])
    def test_an_answer_of_another_sign_in(self, at_google: World, google: Issuer, fields: dict[str, str]) -> None:
        """Its code is sent to nobody, and so is that of an issuer that is another (RFC 9207)."""
        end = at_google.sign_in(**fields)

        assert isinstance(end.outcome, Refused)
        assert "belongs to another sign-in" in end.outcome.trouble.message
        assert 0 == google.count("token")

    def test_an_issuer_that_always_says_who_it_is(self, at_strict: World, strict: Issuer) -> None:
        """An answer without its name is not its own."""
        flow = code_flow(at_strict.begin())
        fields = dict(strict.sign_in(flow.url, ANN, follow=False).fields)
        del fields["iss"]

        assert "refused" == trouble(flow.finish(fields))

    def test_an_issuer_that_does_not(self, at_strict: World, strict: Issuer) -> None:
        """Where no document says so, an answer without a name counts."""
        known = {
            "authorization_endpoint": strict.endpoints.url("authorize"),
            "token_endpoint": strict.endpoints.url("token"),
            "userinfo_endpoint": strict.endpoints.url("userinfo"),
        }
        flow = code_flow(changed(at_strict, **known).begin())
        fields = dict(strict.sign_in(flow.url, ANN, follow=False).fields)
        del fields["iss"]

        assert token(flow.finish(fields))

    def test_a_refusal_comes_back_with_its_word(self, at_google: World, google: Issuer) -> None:
        """The person reads what it means."""
        google.faults.add(Fault("refusal", "authorize", error="admin_policy_enforced"))
        end = at_google.sign_in()

        assert isinstance(end.outcome, Refused)
        assert "admin_policy_enforced" == end.outcome.trouble.error
        assert 0 == google.count("token")

    def test_no_place_to_sign_in(self, at_strict: World, strict: Issuer) -> None:
        """A document may name anything: nobody is sent there."""
        world = changed(at_strict, authorization_endpoint="javascript:alert(1)", token_endpoint=f"{strict.authority}/t")

        assert "garbage" == trouble(_outcome(world.begin()))


def _outcome(flow: object) -> Transient | Refused:
    assert isinstance(flow, Transient | Refused), flow
    return flow


class TestDevice:
    def begin(self, world: World, strict: Issuer, **fields: object) -> Transient | Refused:
        strict.faults.add(Fault("fields", "devicecode", fields=fields))
        return _outcome(world.begin("device"))

    def test_what_the_person_sees(self, at_strict: World, strict: Issuer) -> None:
        """A page and a code, for as long as the server says."""
        flow = device_flow(at_strict.begin("device"))

        assert (strict.device_url, 8, 900.0) == (flow.url, len(flow.user_code), flow.expires_in)
        assert f"{strict.device_url}?user_code={flow.user_code}" == flow.complete_url
        assert ("", "") == (flow.state, flow.redirect_uri)

    def test_a_server_that_says_nothing_of_times(self, at_strict: World, strict: Issuer) -> None:
        """Five seconds between polls (RFC 8628, 3.2)."""
        strict.faults.add(Fault("fields", "devicecode", fields={"expires_in": ...}))
        flow = device_flow(at_strict.begin("device"))

        assert (5.0, SIGN_IN_SECONDS) == (flow.interval, flow.expires_in)

    def test_a_code_is_bound_to_who_has_asked_for_it(self, at_strict: World, strict: Issuer) -> None:
        """By PKCE, where the server knows it: Keycloak insists on that for some clients."""
        seen: list[Mapping[str, str]] = []
        answer = strict.endpoints.answer

        def witnessed(request: WebRequest) -> WebReply:
            seen.append(request.fields)
            return answer(request)

        strict.endpoints.answer = witnessed  # type: ignore[method-assign]  # it sees what was sent
        device_flow(at_strict.begin("device")).poll()
        begun, polled = (each for each in seen if "scope" in each or "device_code" in each)
        device_flow(changed(at_strict, pkce=False).begin("device"))

        assert ("S256", s256(polled["code_verifier"])) == (begun["code_challenge_method"], begun["code_challenge"])
        assert "code_challenge" not in seen[-1]

    def test_a_resource(self, at_strict: World, strict: Issuer) -> None:
        """It is named before the person is asked, too (RFC 8707): oidc-provider gives no token for another one later."""
        strict.habits.resource = "https://mail.example/"
        flow = device_flow(changed(at_strict, resource="https://mail.example/").begin("device"))
        strict.approve_device(flow.user_code, ANN)
        end = flow.poll()

        assert end
        assert token(end)
        assert "invalid_target" == _outcome(at_strict.begin("device")).trouble.error

    def test_slow_down(self, at_strict: World, strict: Issuer) -> None:
        """Five seconds more each time (RFC 8628, 3.5)."""
        flow = device_flow(at_strict.begin("device"))
        for _ in range(2):
            strict.faults.add(Fault("refusal", error="slow_down"))
            assert flow.poll() is None

        assert 15.0 == flow.interval

    def test_the_servers_own_interval_counts(self, at_strict: World, strict: Issuer) -> None:
        """And so does Retry-After."""
        strict.faults.add(Fault("fields", "devicecode", fields={"interval": 9}))
        flow = device_flow(at_strict.begin("device"))
        assert 9.0 == flow.interval
        strict.faults.add(Fault("status", status=429, retry_after="60"))

        assert flow.poll() is None
        assert 60.0 == flow.interval

    def test_a_poll_that_does_not_come_through(self, at_strict: World, strict: Issuer) -> None:
        """The person goes on; the next poll brings the token."""
        flow = device_flow(at_strict.begin("device"))
        for fault in (Fault("reset"), Fault("html"), Fault("status", status=502)):
            strict.faults.add(fault)
            assert flow.poll() is None
        strict.approve_device(flow.user_code, ANN)
        end = flow.poll()

        assert end
        assert ANN == end.who

    @pytest.mark.parametrize(("decision", "error"), [("decline", "access_denied"), ("", "expired_token")])
    def test_how_else_it_ends(self, at_strict: World, strict: Issuer, decision: str, error: str) -> None:
        """The person declines, or the code is too old."""
        flow = device_flow(at_strict.begin("device"))
        if decision:
            strict.approve_device(flow.user_code, ANN, decision=decision)
        else:
            strict.faults.add(Fault("refusal", error=error))
        end = flow.poll()

        assert end
        assert isinstance(end.outcome, Refused)
        assert error == end.outcome.trouble.error

    def test_tokens_that_cannot_be_used_end_it(self, at_strict: World, strict: Issuer) -> None:
        """The code is used up."""
        flow = device_flow(at_strict.begin("device"))
        strict.approve_device(flow.user_code, ANN)
        strict.faults.add(Fault("fields", fields={"token_type": "mac"}))
        end = flow.poll()

        assert end
        assert "garbage" == trouble(end)

    @pytest.mark.parametrize("address", [..., "", 7, "javascript:alert(1)", "https://x.test/\x1b[2J"])
    def test_no_address_with_the_code_in_it(self, at_strict: World, strict: Issuer, address: object) -> None:
        """It is optional (RFC 8628, 3.2): the person enters the code."""
        strict.faults.add(Fault("fields", "devicecode", fields={"verification_uri_complete": address}))
        flow = device_flow(at_strict.begin("device"))

        assert (strict.device_url, "") == (flow.url, flow.complete_url)

    def test_googles_name_for_the_page(self, at_strict: World, strict: Issuer) -> None:
        """It is older than the RFC."""
        strict.faults.add(
            Fault("fields", "devicecode", fields={"verification_uri": ..., "verification_url": strict.device_url})
        )

        assert strict.device_url == device_flow(at_strict.begin("device")).url

    def test_a_provider_without_it(self, at_strict: World, strict: Issuer) -> None:
        """The next move is another way to sign in."""
        known = {
            "authorization_endpoint": strict.endpoints.url("authorize"),
            "token_endpoint": strict.endpoints.url("token"),
        }
        refused = _outcome(changed(at_strict, **known).begin("device"))

        assert isinstance(refused, Refused)
        assert f"`cms login {ANN} --browser`" in refused.trouble.hint

    @pytest.mark.parametrize(
        "fields", [{"user_code": "\x1b[2J"}, {"user_code": ...}, {"device_code": ...}, {"verification_uri": "file:///"}]
    )
    def test_nonsense(self, at_strict: World, strict: Issuer, fields: dict[str, object]) -> None:
        """A code that nobody can type, or no address, is not shown."""
        assert "garbage" == trouble(self.begin(at_strict, strict, **fields))

    @pytest.mark.parametrize(
        ("spoil", "kind"),
        [
            (lambda server: server.faults.add(Fault("status", "devicecode")), "server"),
            (lambda server: server.faults.add(Fault("refusal", "devicecode", error="invalid_client")), "refused"),
        ],
    )
    def test_a_sign_in_that_cannot_begin(
        self, at_strict: World, strict: Issuer, spoil: Callable[[Issuer], None], kind: str
    ) -> None:
        """The server fails or refuses before there is a code."""
        spoil(strict)

        assert kind == trouble(_outcome(at_strict.begin("device")))
