"""A text from outside that would do harm on a terminal, and what is left of it where it is shown."""

# Clear the screen, set the title, C1's escape sequence, a mark of direction, the Unicode end of a line.
HOSTILE = "\x1b[2J\x1b]0;x\x07\x9b31m\u202etxt\u2028end"
HARMLESS = "?[2J?]0;x??31m?txt end"
