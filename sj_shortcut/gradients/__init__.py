"""Measure the gradient of every layer as a tidy frame."""
