"""Where shortcut heads can sit in a model, and which of these places `at=` means."""
