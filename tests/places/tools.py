"""What several tests of places use."""

from torch import nn

from sj_shortcut import shortcut_branches, wrap_with_shortcuts

OWN_FEATURE = "the classifier's own feature: left out unless named"


def chosen(model: nn.Module, at: object, **kwargs: object) -> list[str]:
    return list(shortcut_branches(wrap_with_shortcuts(model, at, **kwargs)))
