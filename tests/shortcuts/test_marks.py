"""A flag that is set tells the records' common owner."""

import pytest

from sj_shortcut.shortcuts.forwards import Forwards, Record


@pytest.mark.parametrize("event", ["used", "spent", "read"])
def test_a_mark_is_told_and_its_absence_is_not(event):
    forwards = Forwards()
    record, other = Record(forwards, graded=True), Record(forwards, graded=True)
    assert not forwards.marked
    setattr(record, event, False)
    assert not forwards.marked
    setattr(record, event, True)
    assert forwards.marked and getattr(record, event) and not getattr(other, event)
