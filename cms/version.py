"""Which cms this is. The same as in pyproject.toml: package metadata costs the daemon a megabyte to ask."""

VERSION = "0.1.0"
