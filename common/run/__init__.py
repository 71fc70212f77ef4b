"""A run on disk: its record, its checkpoint, the command that trains it."""
