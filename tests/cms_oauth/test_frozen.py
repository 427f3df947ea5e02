"""`cms_oauth.frozen` makes the same classes as the standard library."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from typing import Any

import pytest

from cms_oauth import frozen


@frozen.dataclass(frozen=True, slots=True)
class Ours:
    """A class with all that a field can have."""

    name: str
    secret: str = field(repr=False)
    count: int = 1
    values: list[int] = field(default_factory=list)
    seen: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Theirs:
    """The same of the standard library's."""

    name: str
    secret: str = field(repr=False)
    count: int = 1
    values: list[int] = field(default_factory=list)
    seen: bool = field(default=False, compare=False)


@frozen.dataclass(frozen=True)
class Named:
    """Has no slots, a field of its own making, and its own text."""

    name: str
    upper: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "upper", self.name.upper())

    def __repr__(self) -> str:
        return self.upper


@frozen.dataclass(frozen=True, slots=True)
class Empty:
    """Has no fields."""


CALLS: tuple[tuple[tuple[Any, ...], Mapping[str, Any]], ...] = (
    (("a", "s"), {}),
    (("a", "s", 2, [3], True), {}),
    (("a",), {"secret": "s", "values": [1]}),
    ((), {"seen": True, "values": [], "count": 7, "secret": "s", "name": "a"}),
)


@pytest.mark.parametrize(("values", "named"), CALLS)
def test_makes_the_same_records(values: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """A record has the same fields, defaults and text, however its values are given."""
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)

    assert asdict(theirs) == asdict(ours)
    assert repr(theirs).removeprefix("Theirs") == repr(ours).removeprefix("Ours")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (("a",), {}),
        (("a", "s", 2, [3], True, "too many"), {}),
        (("a", "s"), {"name": "twice"}),
        (("a", "s"), {"other": 1}),
        (("a",), {"other": 1}),
    ],
)
@pytest.mark.parametrize("make", [Ours, Theirs])
def test_refuses_the_same_calls(make: Callable[..., object], values: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """A value that is missing, given twice or not a field's raises TypeError."""
    with pytest.raises(TypeError):
        make(*values, **named)


def test_lists_of_two_records_are_two_lists() -> None:
    """A default that is made is made for each record."""
    assert Ours("a", "s").values is not Ours("a", "s").values


def test_equality_and_hash_go_by_class_and_compared_fields() -> None:
    """Records are equal, with one hash, if their class and their compared fields are; one of another class never is."""
    ours: Any = Ours("a", "s")
    empty: Any = Empty()

    assert Named("a") == Named("a") != Named("b")
    assert {Named("a"), empty} == {Named("a"), Named("a"), empty, Empty()}
    assert ours == Ours("a", "s", seen=True)
    assert ours != Theirs("a", "s")
    assert empty != Named("a")


def test_cannot_be_changed() -> None:
    """No field can be set or deleted, and no attribute added."""
    made: Any = Ours("a", "s")

    for name in ("name", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(made, name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(made, name)
    assert not hasattr(made, "__dict__")


def test_the_standard_library_takes_them_for_its_own() -> None:
    """`replace`, `match`, `copy` and `pickle` work, and what a class defines itself stays."""
    made = Ours("a", "s", values=[1])

    assert Ours("b", "s", values=[1]) == replace(made, name="b")
    match made:
        case Ours(name, secret):
            assert ("a", "s") == (name, secret)
    assert [made] * 2 == [copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    assert "A" == repr(Named("a"))


def test_makes_no_code_for_a_class() -> None:
    """All classes share their methods: that is what this is for."""
    methods = [method for _, method in inspect.getmembers(Ours, inspect.isfunction)]

    assert [] == [each for each in methods if each.__code__.co_filename == "<string>"]
    assert methods == [method for _, method in inspect.getmembers(Empty, inspect.isfunction)]
