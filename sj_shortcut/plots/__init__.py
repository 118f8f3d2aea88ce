"""Draw a frame: a tidy frame in, a matplotlib Axes out."""
