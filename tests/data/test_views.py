"""Views give what the dicts would have that they stand for."""

import pytest

from data.views import Chosen, Derived, Joined, View, Without, without

MEMBERS = {f"k{i}": i for i in range(6)}
VIEWS: dict[str, tuple[View[int], dict[str, int]]] = {
    "derived": (Derived(MEMBERS, lambda _, i: i * 2), {key: i * 2 for key, i in MEMBERS.items()}),
    "kept": (Derived(MEMBERS, lambda _, i: -i, lambda i: i % 2 == 0), {"k0": 0, "k2": -2, "k4": -4}),
    "none kept": (Derived(MEMBERS, lambda _, i: i, lambda i: i > 9), {}),
    "without": (Without(MEMBERS, {"k0", "k3"}), {"k1": 1, "k2": 2, "k4": 4, "k5": 5}),
    "chosen": (Chosen(MEMBERS, ["k4", "k1"]), {"k4": 4, "k1": 1}),
    "joined": (Joined({"k9": 9}, MEMBERS), {"k9": 9, **MEMBERS}),
    "view of a view": (
        Derived(Without(MEMBERS, {"k1"}), lambda key, i: i + len(key)),
        {key: i + 2 for key, i in MEMBERS.items() if key != "k1"},
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_the_dict(name: str):
    view, expected = VIEWS[name]
    for _ in range(2):  # it is read more than once
        assert list(view) == list(expected)
        assert list(view.items()) == list(expected.items())
        assert list(view.values()) == list(expected.values())
    assert (len(view), bool(view)) == (len(expected), bool(expected))
    for key in (*MEMBERS, "k9", "absent"):
        assert (key in view) == (key in expected)
        assert view.get(key) == expected.get(key)
        if key not in expected:
            with pytest.raises(KeyError):
                view[key]


def test_a_dict_without_keys_is_a_dict():
    assert without(MEMBERS, ()) is MEMBERS
    assert without(MEMBERS, {"k0"}) == {key: i for key, i in MEMBERS.items() if i}
    assert isinstance(without(MEMBERS, {"k0"}), dict)
    assert isinstance(without(VIEWS["kept"][0], {"k0"}), View)
