"""ANML and OML: learning to continually learn."""
