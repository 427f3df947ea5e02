"""Sign-ins that come from elsewhere or go elsewhere.

`find` opens what other programs have stored, whose layouts are in `formats` and whose encryption is in `decrypt`;
`export_file` is the file of `cms export`. May import the vault's entries and keyring, and nothing of a provider.
"""
