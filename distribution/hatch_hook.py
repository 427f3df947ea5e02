"""Hooks for hatchling, which builds both distributions: what pyproject.toml cannot say."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

CLIENT = "cms-oauth-client"


class Dependencies(MetadataHookInterface):
    """The dependencies of cms-oauth: those in pyproject.toml, and the client at the same version."""

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [f"{CLIENT}=={metadata['version']}", *self.config["dependencies"]]


class Build(BuildHookInterface[Any]):
    """What a wheel has beside its package: manual pages and completions. An editable installation has none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        # In a checkout the client's folder lies here. `pip install .` takes it from there: an index may not have it yet.
        # pip would refuse that beside an editable client (`pip install --editable client --editable .`).
        client = Path(self.root, "client")
        if client.is_dir():
            # hatchling writes this list. What a hook may add to it by `build_data` comes last, which pip does not see in
            # time.
            required = self.metadata.core.dependencies
            required[required.index(f"{CLIENT}=={self.metadata.version}")] = f"{CLIENT} @ {client.as_uri()}"
        self._made = TemporaryDirectory()
        for place, text in self._files().items():
            path = Path(self._made.name, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            build_data["shared_data"][str(path)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling passes it
        if version != "editable":
            self._made.cleanup()

    def _files(self) -> dict[str, str]:
        """Return the text of each file, by its place below an installation's prefix."""
        sys.path[:0] = [self.root, str(Path(self.root, "distribution"))]
        import completions
        import man_pages

        if self.metadata.name == CLIENT:
            return {
                "share/man/man1/cms-oauth.1": man_pages.cms_oauth(),
                "share/man/man1/git-credential-cms.1": man_pages.git_credential_cms(),
                **{
                    place.format(command="cms-oauth"): completions.cms_oauth(shell)
                    for shell, place in completions.PLACES.items()
                },
            }
        return {
            "share/man/man1/cms.1": man_pages.cms(),
            "share/man/man5/cms.cfg.5": man_pages.cms_cfg(),
            **{place.format(command="cms"): completions.cms(shell) for shell, place in completions.PLACES.items()},
        }
