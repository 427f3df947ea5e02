"""Every provider of tokens but Microsoft: OAuth 2.0 and OpenID Connect as the RFCs have them, on the worker's own HTTP.

- `client` is what the service asks.
- `exchange` is one exchange with a provider, and who has signed in.
- `flows` are sign-ins with a person, `registration` makes a client id for them.
- `metadata` is what is known of a server, `proof` how an application proves itself there, `jwts` makes and reads JWTs.
- `kept` is what the vault has of a sign-in.

What differs between servers is in `Grant.server`. May import cms.grants.network, `exchange`, `providers`, `credentials` and
`token_answer`; never the vault, nor cms.grants.entra.
"""
