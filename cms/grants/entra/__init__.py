"""Microsoft Entra as a provider of tokens, by way of MSAL.

`client` is what the service asks; `exchange` is one exchange with Entra and the only file that imports msal; `flows` are
sign-ins with a person, `ms_broker` is Microsoft's broker for Linux, and `credentials` are what an application proves
itself with. May import cms.grants.network, `messages` and `secret_sources`; never the vault.
"""
