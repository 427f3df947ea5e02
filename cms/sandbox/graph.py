"""Simulates sendMail of Microsoft Graph for messages in MIME format, with Graph's error objects.

It checks what Graph checks: the token's audience and permission, the size, the base64, the recipients and the sender. Graph
has no envelope: a message goes to the addresses in To, Cc and Bcc (Microsoft: "user: sendMail", "Create message").
"""

from __future__ import annotations

import base64
import uuid
from binascii import Error as NotBase64
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.utils import getaddresses
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from cms.sandbox.directory import Directory
from cms.sandbox.errors import Refusal
from cms.sandbox.web import WebReply, WebRequest, as_json
from cms_oauth.microsoft import GRAPH, resource_name

# The largest request that Graph takes.
MAX_REQUEST = 4 * 1024 * 1024

_SEND = "Mail.Send"
_SEND_AS_OTHERS = "Mail.Send.Shared"


@dataclass(frozen=True, slots=True)
class Posted:
    """One message that was accepted. `user` is the mailbox that sent it, `content` what the recipients get: no Bcc."""

    user: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)


class _GraphRefusal(Exception):
    """Graph refuses a request with this status, code and message."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Graph:
    """Answers sendMail, and keeps the messages that it accepts."""

    def __init__(self, directory: Directory) -> None:
        self.messages: list[Posted] = []
        self._directory = directory

    def send_mail(self, request: WebRequest) -> WebReply:
        """Answer a request to /v1.0/me/sendMail or /v1.0/users/USER/sendMail."""
        try:
            self.messages.append(self._accept(request))
        except _GraphRefusal as refusal:
            identifier = str(uuid.uuid4())
            error = {"code": refusal.code, "message": str(refusal), "innerError": {"request-id": identifier}}
            return as_json({"error": error}, refusal.status, (("request-id", identifier),))
        return WebReply(HTTPStatus.ACCEPTED, content_type="text/plain")

    def _accept(self, request: WebRequest) -> Posted:
        told = self._check_token(request)
        if len(request.body) > MAX_REQUEST:
            raise _GraphRefusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BadRequest", "The maximum request length supported is 4MB."
            )
        user = self._mailbox(request, told)
        message = message_from_bytes(_decoded(request))
        recipients = _addresses(message, "To", "Cc", "Bcc")
        if not recipients or any("@" not in each for each in recipients):
            raise _GraphRefusal(
                HTTPStatus.BAD_REQUEST, "ErrorInvalidRecipients", "At least one recipient is not valid."
            )
        sender = next(iter(_addresses(message, "From")), user)
        if sender.lower() != user.lower():
            _check_sender(sender, told)
        del message["Bcc"]
        return Posted(user, sender, recipients, message.as_bytes())

    def _check_token(self, request: WebRequest) -> dict[str, Any]:
        """Return what is known of the token: it must be valid, for Graph, and for sending mail."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        told = self._directory.introspect(token)
        what = "" if told["active"] else "IDX14100: JWT is not well formed, or its lifetime is over."
        if told["active"] and resource_name(told["aud"]) != GRAPH:
            what = "Access token validation failure. Invalid audience."
        if what:
            raise _GraphRefusal(HTTPStatus.UNAUTHORIZED, "InvalidAuthenticationToken", what)
        if not {_SEND, _SEND_AS_OTHERS} & set(told["scp"].split()):
            raise _GraphRefusal(
                HTTPStatus.FORBIDDEN, "ErrorAccessDenied", "Access is denied. Check credentials and try again."
            )
        return told

    def _mailbox(self, request: WebRequest, told: dict[str, Any]) -> str:
        """Return the mailbox that the address names, which must be the person's own, or one that an application may use."""
        named = unquote(request.path).removesuffix("/sendMail").rpartition("/")[2]
        mine = told["email"]
        if named == "me" and not mine:
            raise _GraphRefusal(
                HTTPStatus.BAD_REQUEST, "BadRequest", "/me request is only valid with delegated authentication flow."
            )
        try:
            user = self._directory.user(mine if named == "me" else named).name
        except Refusal:
            raise _GraphRefusal(
                HTTPStatus.NOT_FOUND, "ErrorInvalidUser", f"The requested user '{named}' is invalid."
            ) from None
        if mine and user.lower() != mine.lower():
            _check_sender(user, told)
        return user


def _check_sender(sender: str, told: dict[str, Any]) -> None:
    """Refuse to send as somebody else without the permission of the token, and of that mailbox."""
    others = {each.lower() for each in told["mailboxes"]}
    allowed = _SEND_AS_OTHERS in told["scp"].split() or not told["email"]
    if sender.lower() not in others or not allowed:
        raise _GraphRefusal(
            HTTPStatus.FORBIDDEN,
            "ErrorSendAsDenied",
            "The user account which was used to submit this request does not have the right to send mail on behalf of "
            "the specified sending account.",
        )


def _decoded(request: WebRequest) -> bytes:
    """Return the MIME message; only that format is simulated."""
    try:
        if not request.headers.get("content-type", "").startswith("text/plain"):
            raise ValueError  # noqa: TRY301 - one answer for both
        return base64.b64decode(request.body, validate=True)
    except (ValueError, NotBase64):
        raise _GraphRefusal(
            HTTPStatus.BAD_REQUEST, "ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content."
        ) from None


def _addresses(message: Message, *names: str) -> tuple[str, ...]:
    values = [str(value) for name in names for value in message.get_all(name, [])]
    return tuple(address for _, address in getaddresses(values) if address)
