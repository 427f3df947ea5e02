"""Splits shell text into commands and their words, expanded as sh(1) does it, as far as that needs no running. Pure.

`shlex` knows neither `$(...)` nor variables, nor that a `#` within a word begins no comment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cms.cli.doctor.mail_tools.found import UNKNOWN

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=(.*)", re.DOTALL)

_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
_PLAIN = re.compile(r"[^\s\\'\"$`;&|()<>]+")
_HEREDOC = re.compile(r"<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|([^\s;&|()<>]+))")
# In a variable with braces: what stands for it if it is not set. Quotes or commands in that are not expanded.
_DEFAULT = re.compile(r":?[-=](.*)", re.DOTALL)
_SPECIAL = re.compile(r"[`\"'\\{}()]")
_VARIABLE = re.compile(r"\$(\w+)")


@dataclass(frozen=True, slots=True)
class Simple:
    """One simple command, with the line that it begins on. `pipes` is True if the next command reads its output."""

    line: int
    words: list[str]
    pipes: bool


class Splitter:
    """Walks through a text from left to right.

    `variables` may change between two commands. `substituted` is called with each command substitution and its line.
    """

    def __init__(
        self, text: str, line: int, variables: Mapping[str, str], substituted: Callable[[str, int], None]
    ) -> None:
        self._text = text
        self._variables = variables
        self._substituted = substituted
        self._at = 0
        # The line of `_counted`.
        self._line = line
        self._counted = 0
        self._begun = line
        # None between two words.
        self._word: str | None = None
        self._words: list[str] = []
        # True if the word at hand is the file of a redirection.
        self._redirected = False
        self._heredocs: list[tuple[str, bool]] = []

    def commands(self) -> Iterator[Simple]:
        """Yield the commands in order."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in "\n;&|()":
                yield from self._operator(char)
            elif char in " \t\r":
                self._end_word()
                self._at += 1
            elif char == "#" and self._word is None:
                self._at = self._find("\n")
            elif char in "<>":
                self._redirect()
            elif self._text.startswith("\\\n", self._at):
                self._at += 2
            else:
                self._word = (self._word or "") + self._piece(char)
        yield from self._ended()

    def _find(self, what: str) -> int:
        at = self._text.find(what, self._at)
        return len(self._text) if at < 0 else at

    def _operator(self, char: str) -> Iterator[Simple]:
        following = self._text[self._at + 1 : self._at + 2]
        if char == "&" and following == ">":
            self._end_word()
            self._at += 1
            return
        yield from self._ended(pipes=char == "|" and following != "|")
        self._at += 2 if following == char and char in ";&|" else 1
        if char == "\n":
            self._skip_heredocs()

    def _ended(self, *, pipes: bool = False) -> Iterator[Simple]:
        self._end_word()
        self._redirected = False
        words, self._words = self._words, []
        if words:
            yield Simple(self._begun, words, pipes)

    def _end_word(self) -> None:
        if self._word is None:
            return
        if not self._redirected:
            self._begun = self._begun if self._words else self._current_line()
            self._words.append(self._word)
        self._word, self._redirected = None, False

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _redirect(self) -> None:
        # A number before it is a descriptor.
        self._word = None if self._word and self._word.isdecimal() else self._word
        self._end_word()
        heredoc = _HEREDOC.match(self._text, self._at)
        if heredoc:
            self._heredocs.append((heredoc[2] or heredoc[3] or heredoc[4], bool(heredoc[1])))
            self._at = heredoc.end()
            return
        while self._text[self._at : self._at + 1] in {"<", ">", "&", "|"}:
            self._at += 1
        # `<(` and `>(` contain a command.
        self._redirected = self._text[self._at : self._at + 1] != "("

    def _skip_heredocs(self) -> None:
        for mark, indented in self._heredocs:
            while self._at < len(self._text):
                end = self._find("\n")
                line = self._text[self._at : end]
                self._at = end + 1
                if (line.lstrip("\t") if indented else line) == mark:
                    break
        self._heredocs = []

    # Pieces of a word. Each method returns the value of what begins here, and goes behind it.

    def _piece(self, char: str) -> str:
        if char == "\\":
            following = self._text[self._at + 1 : self._at + 2]
            self._at += 2
            return following
        if char == "'":
            return self._literal()
        if char == '"':
            self._at += 1
            return self._quoted()
        if char == "$":
            return self._expansion()
        if char == "`":
            return self._backquoted()
        return self._plain()

    def _plain(self) -> str:
        """Unquoted text. `~` is expanded at the beginning of a word, and of the value of an assignment."""
        found = _PLAIN.match(self._text, self._at)
        text = found[0] if found else self._text[self._at]
        self._at += len(text)
        assigned = ASSIGNMENT.fullmatch(text) if self._word is None else None
        if assigned:
            return f"{assigned[1]}={self._tilde(assigned[2])}"
        return self._tilde(text) if self._word is None else text

    def _tilde(self, text: str) -> str:
        return self._variables.get("HOME", "~") + text[1:] if text == "~" or text.startswith("~/") else text

    def _literal(self) -> str:
        self._at += 1
        begun, self._at = self._at, self._find("'") + 1
        return self._text[begun : self._at - 1]

    def _quoted(self) -> str:
        """The rest of a text in double quotes."""
        value = list[str]()
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                break
            following = self._text[self._at + 1 : self._at + 2]
            if char == "\\" and following in {"$", "`", '"', "\\", "\n"}:
                value.append("" if following == "\n" else following)
                self._at += 2
            elif char in "$`":
                value.append(self._piece(char))
            else:
                value.append(char)
                self._at += 1
        return "".join(value)

    def _expansion(self) -> str:
        """What a dollar sign begins."""
        self._at += 1
        following = self._text[self._at : self._at + 1]
        if following == "'":
            # Of the escapes in it, a path or an address has only this one.
            return self._literal().replace("\\\\", "\\")
        if self._text.startswith("((", self._at):
            self._at = self._find("))") + 2
            return UNKNOWN
        if following == '"':
            return ""
        if following == "(":
            line = self._current_line()
            self._substituted(self._enclosed("(", ")"), line)
            return UNKNOWN
        if following == "{":
            return self._braced(self._enclosed("{", "}"))
        name = _NAME.match(self._text, self._at)
        self._at = name.end() if name else self._at
        return self._variables.get(name[0], UNKNOWN) if name else "$"

    def _enclosed(self, opens: str, closes: str) -> str:
        """What stands between the bracket here and the one that closes it."""
        begun, depth, quoted = self._at + 1, 0, False
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == "\\":
                self._at += 1
            elif char == "'" and not quoted:
                self._at = self._find("'") + 1
            elif char == '"':
                quoted = not quoted
            elif char in {opens, closes} and not quoted:
                depth += 1 if char == opens else -1
                if not depth:
                    break
        return self._text[begun : max(begun, self._at - 1)]

    def _braced(self, inside: str) -> str:
        """A variable in braces, or what the text gives for one that is not set."""
        name = _NAME.match(inside)
        value = self._variables.get(name[0], "") if name else ""
        rest = inside[name.end() :] if name else inside
        default = _DEFAULT.fullmatch(rest)
        if default and not value and not _SPECIAL.search(default[1]):
            value = _VARIABLE.sub(lambda found: self._variables.get(found[1], UNKNOWN), default[1])
        return ((default or not rest) and value) or UNKNOWN

    def _backquoted(self) -> str:
        line = self._current_line()
        self._at += 1
        begun = self._at
        while self._at < len(self._text) and self._text[self._at] != "`":
            self._at += 2 if self._text[self._at] == "\\" else 1
        inside = self._text[begun : self._at]
        self._at += 1
        self._substituted(re.sub(r"\\([$`\\])", r"\1", inside), line)
        return UNKNOWN
