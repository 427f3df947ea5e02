"""HTTPS to a provider, for every provider: `http` has the client, `deadline` bounds an exchange, `proxy` is the route.

May import cms.grants.secret_sources, for the proxy's password; neither a provider nor the vault.
"""
