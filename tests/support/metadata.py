"""A machine's metadata service, simulated at its documented shape: Azure's virtual machines, and the App Service.

Microsoft: "How to use managed identities for Azure resources on an Azure VM to acquire an access token", and "How to
use managed identities for App Service". It is part of the sandbox's plain HTTP server, where a program is led by
`AZURE_POD_IDENTITY_AUTHORITY_HOST`, or by `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from http import HTTPStatus

from cms.sandbox.directory import Client
from cms.sandbox.entra import Entra
from cms.sandbox.web import WebReply, WebRequest, as_json

VM_PATH = "/metadata/identity/oauth2/token"
APP_SERVICE_PATH = "/msi/token"

# The system-assigned identity of a machine, and a user-assigned one.
OWN_ID = "5a5a5a5a-0000-4000-8000-0000000a55e7"
ASSIGNED_ID = "5a5a5a5a-0000-4000-8000-0000000a5516"


class Metadata:
    """The machine's identities. `status` is answered instead of a token, unless it is 200; `header` is who may ask.

    `fields` replace those of the answer.
    """

    def __init__(self, entra: Entra, mailboxes: Iterable[str], header: str = "sandbox-identity-header") -> None:
        self.status: int = HTTPStatus.OK
        self.header = header
        self.fields: dict[str, object] = {}
        # The resource of each question so far.
        self.asked: list[str] = []
        self._entra = entra
        for client_id in (OWN_ID, ASSIGNED_ID):
            entra.register(Client(client_id, (), mailboxes=tuple(mailboxes)))
        entra.plain.paths[VM_PATH] = self._for_vm
        entra.plain.paths[APP_SERVICE_PATH] = self._for_app_service

    @property
    def vm(self) -> dict[str, str]:
        """What leads a program here as on a virtual machine."""
        return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self._entra.plain.url}

    @property
    def app_service(self) -> dict[str, str]:
        """What leads a program here as in the App Service."""
        endpoint = f"{self._entra.plain.url}{APP_SERVICE_PATH}"
        return {"IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": self.header}

    def _for_vm(self, request: WebRequest) -> WebReply:
        if request.headers.get("metadata") != "true":
            return _error("bad_request_102", "Required metadata header not specified")
        return self._token(request, "2018-02-01")

    def _for_app_service(self, request: WebRequest) -> WebReply:
        if not hmac.compare_digest(request.headers.get("x-identity-header", ""), self.header):
            return as_json({"statusCode": 401, "message": "the header is not this machine's"}, HTTPStatus.UNAUTHORIZED)
        return self._token(request, "2019-08-01")

    def _token(self, request: WebRequest, version: str) -> WebReply:
        told = request.fields.get
        self.asked.append(told("resource", ""))
        if self.status != HTTPStatus.OK:
            return as_json({"error": "unavailable", "error_description": "scripted"}, self.status)
        if told("api-version") != version or not told("resource"):
            return _error("invalid_request", "api-version or resource is missing")
        client_id = told("client_id", OWN_ID)
        if client_id not in (OWN_ID, ASSIGNED_ID):
            return _error("invalid_request", "Identity not found")
        return as_json(self._answer(client_id, told("resource", "")) | self.fields)

    def _answer(self, client_id: str, resource: str) -> dict[str, str]:
        now, life = int(self._entra.directory.now()), int(self._entra.token_life)
        return {
            "access_token": self._entra.directory.issue_for_app(resource, client_id),
            "client_id": client_id,
            "expires_in": str(life),
            "expires_on": str(now + life),
            "ext_expires_in": str(life),
            "not_before": str(now),
            "resource": resource,
            "token_type": "Bearer",
        }


def _error(error: str, description: str) -> WebReply:
    return as_json({"error": error, "error_description": description}, HTTPStatus.BAD_REQUEST)
