import sj_shortcut
from sj_shortcut.torch_model.warnings import ShortcutWarning


def test_it_is_public_a_user_warning_and_known_as_ours() -> None:
    assert sj_shortcut.ShortcutWarning is ShortcutWarning
    assert issubclass(ShortcutWarning, UserWarning)
    assert ShortcutWarning.__module__.startswith("sj_shortcut")
