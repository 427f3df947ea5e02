"""Makes the manual pages from Markdown: docs/configuration.md, and a text in man/ for each command.

MyST reads the Markdown, and docutils writes the page. Where a text has `{options}`, the options of the command follow, as
click or argparse knows them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree
from docutils.writers.manpage import Writer
from myst_parser.parsers.docutils_ import Parser

_HERE = Path(__file__).parent
_OPTIONS = "{options}\n"

# Headings of columns that say nothing in a list.
_OBVIOUS = ("meaning", "what it does")


def cms() -> str:
    """cms(1): a section for each command."""
    # Imported here, because the client is built without cms and click.
    import click

    from cms.cli.commands import cms as group
    from cms.cli.commands import command

    def described(context: click.Context) -> Iterator[str]:
        yield f"`{context.command_path} {' '.join(context.command.collect_usage_pieces(context))}`\n"
        yield f"{_paragraphs(context.command.help)}\n"
        records = (each.get_help_record(context) for each in context.command.get_params(context))
        yield from (_option(names, text) for names, text in filter(None, records) if text)
        yield _examples(context.command.epilog or "")

    whole = click.Context(group, info_name="cms", **group.context_settings)
    parts = [*described(whole), "## Commands\n"]
    for name in sorted(group.commands):
        context = click.Context(command(name), whole, name)
        parts += [f"### cms {name}\n", *described(context)]
        if isinstance(context.command, click.Group):
            for part, each in context.command.commands.items():
                parts += described(click.Context(each, context, part))
    return _page("cms.1.md", "\n".join(parts))


def cms_oauth() -> str:
    """cms-oauth(1)."""
    from cms_oauth.options import parser

    # argparse has no public list of its options; the libraries that describe a parser read this one as well.
    options: list[argparse.Action] = parser()._actions  # noqa: SLF001
    return _page(
        "cms-oauth.1.md",
        "\n".join(
            _option(", ".join(each.option_strings) + (f" {each.metavar}" if each.metavar else ""), each.help or "")
            for each in options
        ),
    )


def git_credential_cms() -> str:
    """git-credential-cms(1)."""
    return _page("git-credential-cms.1.md")


def cms_cfg() -> str:
    """cms.cfg(5)."""
    _, text = (_HERE.parent / "docs" / "configuration.md").read_text().split("\n", 1)
    return _page("cms.cfg.5.md", text)


def _paragraphs(text: str | None) -> str:
    """Return help without the indentation that it has in the source."""
    return "\n".join(line.strip() for line in (text or "").splitlines())


def _examples(epilog: str) -> str:
    """Return a command's examples, which are not wrapped: click's mark for that is the first line."""
    _, heading, *lines = epilog.splitlines()
    return "\n".join([heading, "", "```", *(line.strip() for line in lines), "```", ""])


def _option(names: str, text: str) -> str:
    return f"`{names}`\n: {text}\n"


def _page(source: str, options: str = "") -> str:
    """Return the page that a text in man/ describes: its first line is the name and what it is."""
    text = (_HERE / "man" / source).read_text().replace(_OPTIONS, options)
    tree = publish_doctree(
        text,
        parser=Parser(),
        settings_overrides={
            "doctitle_xform": False,
            "myst_all_links_external": True,
            "myst_enable_extensions": ["deflist"],
            "report_level": 2,
            "halt_level": 2,
            "myst_highlight_code_blocks": False,
        },
    )
    (whole,) = tree.children
    heading, *parts = whole.children
    name, _, purpose = heading.astext().partition(" - ")
    tree.children = []
    tree += [nodes.title("", name), nodes.subtitle("", purpose)]
    tree += nodes.docinfo("", _field("manual_section", source.split(".")[-2]))
    tree += parts
    for table in list(tree.findall(nodes.table)):
        table.replace_self(_definitions(table))
    for reference in list(tree.findall(nodes.reference)):
        reference.replace_self(_mentioned(reference))
    page = publish_from_doctree(tree, writer=Writer(), settings_overrides={"output_encoding": "unicode"})
    # mandoc minds a space below a heading.
    return re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", str(page), flags=re.MULTILINE)


def _field(name: str, value: str) -> nodes.field:
    return nodes.field("", nodes.field_name("", name), nodes.field_body("", nodes.paragraph("", value)))


def _definitions(table: nodes.table) -> nodes.definition_list:
    """Return a table as a list, which a narrow terminal can show: the first column, and what the others say of it."""
    headings, *rows = [list(row.findall(nodes.entry)) for row in table.findall(nodes.row)]
    items = nodes.definition_list()
    for first, *others in rows:
        term = nodes.term("", "", *_inline(first))
        body = nodes.definition()
        for heading, entry in zip(headings[1:], others, strict=True):
            words = _inline(entry)
            if words:
                body += nodes.paragraph(
                    "", "", nodes.Text("" if heading.astext() in _OBVIOUS else f"{heading.astext()}: "), *words
                )
        items += nodes.definition_list_item("", term, body)
    return items


def _inline(entry: nodes.entry) -> list[nodes.Node]:
    return [child for paragraph in entry.children for child in paragraph.children]


def _mentioned(reference: nodes.reference) -> list[nodes.Node]:
    """Return a link as words: a page of ours by its file, an address as it is, a place in this page as nothing."""
    target = str(reference.get("refuri", ""))
    words: list[nodes.Node] = list(reference.children)
    if target.startswith("#") or not target or target == reference.astext():
        return words
    file = target.partition("#")[0]
    return [*words, nodes.Text(f" ({file if ':' in file else f'docs/{file}'})")]
