"""Do shortcuts help, where, and by how much? Which of the choices should be the default?"""

__all__: list[str] = []
