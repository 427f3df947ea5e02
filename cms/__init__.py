"""cms: a daemon that keeps fresh OAuth2 tokens of Microsoft 365 for mail programs, and the `cms` command.

`main` starts either. `core` decides, `system` is the machine, `config` reads the configuration, `grants` is the worker
process that alone sees what is secret, `daemon` serves tokens, `cli` is the command, and `sandbox` a simulated Microsoft
365. The docstring of each package says what it may import; `tests/test_layers.py` has all of it as one table. The
programs that fetch a token are in `cms_oauth`, which imports nothing of this package.
"""
