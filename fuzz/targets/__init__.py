"""One file for each parser, and in it `check`: what must be true of it for any bytes at all."""
