"""A module that somebody left in the folder."""

ANSWER = 42
