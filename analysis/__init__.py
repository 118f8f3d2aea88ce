"""Studies of the method on real data: what each answers, and how it is run, is in README.md."""

__all__: list[str] = []
