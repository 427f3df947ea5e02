"""`cms init`: sets up cms, from the configuration to the first token.

`wizard` goes through the steps, `application` asks which application signs in, `first_config` writes the configuration,
`systemd_units` installs the service, and `mail_programs` has what each mail program needs, written as that program reads it
(`quoting`); `show` prints it. Imports of `cms/cli/` only `login`, `client`, `terminal`, `failure` and `run_line`, and of the
rest `config`, `core`, `system` and the worker's messages.
"""
