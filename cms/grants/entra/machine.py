"""Asks the machine's managed identity in Azure for a token, by MSAL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msal

from cms.core.accounts import Grant, Scopes, resource
from cms.grants.entra.exchange import Exchange, Result
from cms.grants.network.http import Metadata, NoAnswer

# The name in messages for a managed identity's service. The real address depends on the environment.
_METADATA = "http://azure-metadata"


class Machine(Exchange):
    """A request for a token of the machine's managed identity. It needs no MSAL app, and nothing is stored."""

    def __init__(self, grant: Grant) -> None:
        super().__init__(replace(grant, authority=_METADATA), Metadata())
        identity = (
            msal.UserAssignedManagedIdentity(client_id=grant.client_id)
            if grant.client_id
            else msal.SystemAssignedManagedIdentity()
        )
        self._client = msal.ManagedIdentityClient(identity, http_client=self.http, http_cache=self._replies)

    def token(self, scopes: Scopes) -> Result:
        """Return a token for the resource that the scopes name. Raises OSError if a key file cannot be read."""
        files: list[OSError] = []

        def question() -> Any:
            try:
                return self._client.acquire_token_for_client(resource=resource(scopes))
            except NoAnswer:
                raise
            except msal.ManagedIdentityError:
                if not self.grant.client_id:
                    raise
                # Azure Arc's older agents know the machine's own identity only, and so do older versions of MSAL.
                return {"error": "invalid_request"}
            except OSError as error:
                files.append(error)
                raise

        result = self.ask(question)
        if files:
            raise files[0]
        return result
