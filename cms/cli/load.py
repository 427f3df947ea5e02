"""Loads the configuration, for the commands that read it."""

from __future__ import annotations

import os

from cms.cli.failure import Failure
from cms.config.child import load
from cms.config.model import Config, ConfigError


def load_config(path: str) -> Config:
    """Load a configuration. Raises Failure if it is faulty."""
    try:
        return load(path)
    except ConfigError as error:
        raise Failure(str(error), status=os.EX_CONFIG) from None
