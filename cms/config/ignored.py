"""`Ignored`: an object of cloud_mdir_sync for which cms has no use. A file may do with it what it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn, Self

from cms.config.arguments import Given, Mistake


class Ignored:
    """Stands for cloud_mdir_sync's `cfg`, and for what its directives return. Each use of an attribute is a warning.

    cms does not know which attributes and methods there are, so it has all of them: empty, and without effect. One that the
    file has set keeps its value, because the file may use it.

    - `what` names the object in messages, `attribute` makes the name of an attribute of it.
    - `warn` takes the name of what is ignored.
    """

    __slots__ = ("__dict__", "_attribute", "_warn", "_what")
    _what: str
    _warn: Callable[[str], None]
    _attribute: Callable[[str], str]

    def __init__(self, what: str, warn: Callable[[str], None], attribute: Callable[[str], str]) -> None:
        for name, value in (("_what", what), ("_warn", warn), ("_attribute", attribute)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return self._what

    def __getattr__(self, name: str) -> Ignored:
        # Python asks for these itself, for instance to copy an object.
        if name.startswith("__"):
            raise AttributeError(name)
        what = self._attribute(name)
        self._warn(what)
        # An attribute of an attribute has the name of the first: a warning for each line is enough.
        self.__dict__[name] = found = Ignored(what, self._warn, lambda _: what)
        return found

    def __setattr__(self, name: str, value: Given) -> None:
        self._warn(self._attribute(name))
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        self.__dict__.pop(name, None)

    def __call__(self, *_: Given, **__: Given) -> Self:
        self._warn(self._what)
        return self

    def __setitem__(self, _key: Given, _value: Given) -> None:
        self._warn(self._what)

    def __delitem__(self, _key: Given) -> None:
        """Accept that, as everything."""

    def __iter__(self) -> Iterator[Given]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __contains__(self, _: Given) -> bool:
        return False

    def __exit__(self, *_: object) -> None:
        """End a `with`; an exception goes on."""

    def __index__(self) -> int:
        return 0

    def __float__(self) -> float:
        return 0.0

    def __str__(self) -> str:
        # A text with this in it is no path (`expand.expanded`): a socket must not get a name by accident.
        return f"${{{self._what}}}"

    def __fspath__(self) -> NoReturn:
        raise Mistake(f"{self._what} has no value: it is a setting of cloud_mdir_sync", "Write the path itself")


def _itself(self: Ignored, *_: Given) -> Ignored:
    return self


def _never(_self: Ignored, _other: Given) -> bool:
    return False


# Operators return the object itself, so that `cfg.x += 1` and `cfg.x | {1}` load. Comparisons are never true.
for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
    "matmul",
):
    for _form in ("", "r", "i"):
        setattr(Ignored, f"__{_form}{_name}__", _itself)
for _name in ("neg", "pos", "invert", "abs", "getitem", "enter", "copy", "deepcopy"):
    setattr(Ignored, f"__{_name}__", _itself)
for _name in ("lt", "le", "gt", "ge"):
    setattr(Ignored, f"__{_name}__", _never)
