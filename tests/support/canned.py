"""Answers to HTTP requests without a network."""

from __future__ import annotations

import json
from io import BytesIO

import requests
import urllib3
from requests.adapters import BaseAdapter

AUTHORITY = "https://login.test/tid"
TOKEN_ENDPOINT = f"{AUTHORITY}/oauth2/v2.0/token"
DISCOVERED = json.dumps(
    {"token_endpoint": TOKEN_ENDPOINT, "authorization_endpoint": f"{AUTHORITY}/oauth2/v2.0/authorize"}
).encode()


class Canned(BaseAdapter):
    """Answers without a network; remembers what was sent."""

    def __init__(self, *answers: tuple[int, bytes] | Exception, headers: dict[str, str] | None = None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.headers = headers or {}
        self.sent: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *_args: object, **_kwargs: object) -> requests.Response:
        self.sent.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code, body = answer
        response.request, response.url = request, request.url or ""
        response.headers.update(self.headers)
        response.raw = urllib3.HTTPResponse(BytesIO(body), self.headers, preload_content=False)
        return response

    def close(self) -> None:
        pass
