"""Which cms this is: the one place of the number. Both distributions are built with it, and package metadata costs more to ask."""

VERSION = "0.1.0"
