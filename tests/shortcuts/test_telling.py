"""How a slip is told."""

import warnings

from sj_shortcut import ShortcutWarning
from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.shortcuts.telling import tell


def test_each_slip_is_told_once_a_model():
    first, second = Forwards(), Forwards()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for forwards, key in [(first, "a"), (first, "a"), (first, "b"), (second, "a")]:
            tell(forwards, key, f"slip {key}")
    assert [str(w.message) for w in caught] == ["slip a", "slip b", "slip a"]
    assert {w.category for w in caught} == {ShortcutWarning}
    assert first.said == {"a", "b"} and second.said == {"a"}
