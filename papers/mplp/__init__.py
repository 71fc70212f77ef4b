"""MPLP: Learning a Message Passing Learning Protocol."""
