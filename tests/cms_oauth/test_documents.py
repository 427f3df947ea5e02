"""Where messages say that the documentation is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cms_oauth import documents
from cms_oauth.documents import located


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("see docs/configuration.md, Vault", "see {}/configuration.md, Vault"),
        ("(docs/clients/exim.md)", "({}/clients/exim.md)"),
        ("see docs/clients/", "see {}/clients/"),
        ("/home/u/docs/mail.md", "/home/u/docs/mail.md"),
        ("https://example.com/docs/x.md", "https://example.com/docs/x.md"),
        ("docs/ is a folder", "docs/ is a folder"),
        ("nothing", "nothing"),
    ],
)
def test_an_installation_names_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, there: str
) -> None:
    """And leaves every other path as it is."""
    monkeypatch.setattr(documents, "_FOLDER", str(tmp_path))

    assert there.format(tmp_path) == located(text)


def test_a_checkout_names_them_from_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a contributor reads them."""
    monkeypatch.setattr(documents, "_FOLDER", str(tmp_path / "none"))

    assert "see docs/moving.md" == located("see docs/moving.md")
