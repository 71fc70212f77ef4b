"""CLAPP: deep representations from a Hebbian-like rule that is local in space and time."""
