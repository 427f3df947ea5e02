"""The documentation, which comes with an installation: where the files lie that messages call `docs/NAME.md`."""

import os

# Beside this file where cms is installed (client/pyproject.toml). A checkout has none there: its docs/ is at its top.
_FOLDER = f"{os.path.dirname(os.path.abspath(__file__))}/docs"  # noqa: PTH100, PTH120 - the client loads no pathlib


def located(text: str) -> str:
    """Return a message in which each `docs/...` is the path of the file in this installation; in a checkout, as it is."""
    if "docs/" not in text or not os.path.isdir(_FOLDER):  # noqa: PTH112 - as above
        return text
    import re  # noqa: PLC0415 - most messages name no file

    return re.sub(r"(?<![\w/.-])docs(?=/[\w-]+(?:/|\.md))", _FOLDER.replace("\\", r"\\"), text)
