"""Exchanges with the sandbox's Entra, and what they end with."""

from __future__ import annotations

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome, Refused, Transient
from cms.grants.entra.client import Entra as Provider
from cms.grants.entra.flows import CodeFlow
from cms.grants.providers import ExchangeEnd, Flow
from cms.sandbox.entra import Entra
from support.grants import ANN, SCOPES, grant_for


def code_flow(flow: Flow | Outcome) -> CodeFlow:
    assert isinstance(flow, CodeFlow)
    return flow


class Person:
    """A sign-in in the sandbox, and what is done with it afterwards."""

    def __init__(self, server: Entra, grant: Grant | None = None) -> None:
        self.server = server
        self.grant = grant or grant_for(server)
        self.client = Provider(server.ca_file)
        self.answer = self.sign_in()

    def sign_in(self, user: str = ANN, claims: str = "", secret: str = "") -> ExchangeEnd:
        flow = code_flow(self.client.begin(self.grant, "browser", claims, secret))
        page = self.server.sign_in(flow.url, user, follow=False)
        return flow.finish(page.fields)

    def redeem(self, client: Provider | None = None, scopes: tuple[str, ...] = SCOPES, secret: str = "") -> ExchangeEnd:
        return (client or self.client).redeem(
            self.grant, scopes, self.answer.cache, self.answer.subject, who=ANN, secret=secret
        )


def granted(outcome: Outcome) -> Granted:
    assert isinstance(outcome, Granted), outcome
    return outcome


def transient(answer: ExchangeEnd) -> str:
    assert isinstance(answer.outcome, Transient), answer.outcome
    return answer.outcome.trouble.kind


def refused(answer: ExchangeEnd) -> str:
    assert isinstance(answer.outcome, Refused), answer.outcome
    return answer.outcome.trouble.kind
