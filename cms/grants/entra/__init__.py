"""Microsoft Entra as a provider of tokens, by way of MSAL.

`client` is what the service asks; `exchange` is one exchange with Entra, `machine` one with the machine's metadata service,
and only these two import msal; `flows` are sign-ins with a person, and `ms_broker` is Microsoft's broker for Linux. May
import cms.grants.network, `exchange`, `providers`, `credentials` and `token_answer`; never the vault.
"""
