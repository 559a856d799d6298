"""Mappings whose values are made when they are asked for, so that those of a large data set need no memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping, ValuesView
from itertools import chain
from typing import Any, TypeVar

Value = TypeVar("Value")


class View(Mapping[str, Value]):
    """A mapping that is read in its order by `stream`, without a look-up for each key."""

    @abstractmethod
    def stream(self) -> Iterator[tuple[str, Value]]:
        """The keys with their values."""

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.stream())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def items(self) -> ItemsView[str, Value]:
        return _Items(self)

    def values(self) -> ValuesView[Value]:
        return _Values(self)


class _Items(ItemsView[str, Any]):
    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping.stream()  # type: ignore[attr-defined]


class _Values(ValuesView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.stream())  # type: ignore[attr-defined]


class Derived(View[Value]):
    """{key: value_of(key, member)} of the members of a mapping, or of those that are to `keep`."""

    def __init__(
        self,
        members: Mapping[str, Any],
        value_of: Callable[[str, Any], Value],
        keep: Callable[[Any], bool] | None = None,
    ) -> None:
        self._members, self._value_of, self._keep = members, value_of, keep

    def stream(self) -> Iterator[tuple[str, Value]]:
        keep = self._keep
        return (
            (key, self._value_of(key, member)) for key, member in self._members.items() if keep is None or keep(member)
        )

    def __iter__(self) -> Iterator[str]:
        if self._keep is None:
            return iter(self._members)
        return (key for key, member in self._members.items() if self._keep(member))

    def __len__(self) -> int:
        return len(self._members) if self._keep is None else super().__len__()

    def __contains__(self, key: object) -> bool:
        return key in self._members and (self._keep is None or self._keep(self._members[str(key)]))

    def __getitem__(self, key: str) -> Value:
        member = self._members[key]
        if self._keep is not None and not self._keep(member):
            raise KeyError(key)
        return self._value_of(key, member)


class Without(View[Value]):
    """A mapping without some of its keys."""

    def __init__(self, members: Mapping[str, Value], lacking: Collection[str]) -> None:
        self._members, self._lacking = members, lacking

    def stream(self) -> Iterator[tuple[str, Value]]:
        return (item for item in self._members.items() if item[0] not in self._lacking)

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._members if key not in self._lacking)

    def __len__(self) -> int:
        return len(self._members) - len(self._lacking)

    def __contains__(self, key: object) -> bool:
        return key not in self._lacking and key in self._members

    def __getitem__(self, key: str) -> Value:
        if key in self._lacking:
            raise KeyError(key)
        return self._members[key]


class Chosen(View[Value]):
    """The members of a mapping that have these keys, in the order of the keys."""

    def __init__(self, members: Mapping[str, Value], keys: Iterable[str]) -> None:
        self._members, self._keys = members, dict.fromkeys(keys)

    def stream(self) -> Iterator[tuple[str, Value]]:
        return ((key, self._members[key]) for key in self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __getitem__(self, key: str) -> Value:
        if key not in self._keys:
            raise KeyError(key)
        return self._members[key]


class Joined(View[Value]):
    """The members of two mappings without a common key, one after the other."""

    def __init__(self, first: Mapping[str, Value], second: Mapping[str, Value]) -> None:
        self._first, self._second = first, second

    def stream(self) -> Iterator[tuple[str, Value]]:
        return chain(self._first.items(), self._second.items())

    def __iter__(self) -> Iterator[str]:
        return chain(self._first, self._second)

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __contains__(self, key: object) -> bool:
        return key in self._first or key in self._second

    def __getitem__(self, key: str) -> Value:
        return self._first[key] if key in self._first else self._second[key]


def without(members: Mapping[str, Value], lacking: Collection[str]) -> Mapping[str, Value]:
    """The mapping without some of its keys: another dict, or a view of what is no dict."""
    if not lacking:
        return members
    if isinstance(members, dict):
        return {key: member for key, member in members.items() if key not in lacking}
    return Without(members, lacking)
