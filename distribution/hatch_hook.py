"""Hooks for hatchling, which builds both distributions: what pyproject.toml cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

CLIENT = "cms-oauth-client"


class Dependencies(MetadataHookInterface):
    """The dependencies of cms-oauth: those in pyproject.toml, and the client at the same version."""

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [f"{CLIENT}=={metadata['version']}", *self.config["dependencies"]]


class Build(BuildHookInterface[Any]):
    """What a wheel of cms-oauth has beside its package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        # In a checkout the client's folder lies here. `pip install .` takes it from there: an index may not have it yet.
        # pip would refuse that beside an editable client (`pip install --editable client --editable .`).
        client = Path(self.root, "client")
        if client.is_dir() and version != "editable":
            # hatchling writes this list. What a hook may add to it by `build_data` comes last, which pip does not see in
            # time.
            required = self.metadata.core.dependencies
            required[required.index(f"{CLIENT}=={self.metadata.version}")] = f"{CLIENT} @ {client.as_uri()}"
