"""Where does the gradient die, and do shortcuts bring it back?"""

__all__: list[str] = []
