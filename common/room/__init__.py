"""A paper's room: YAML and sources in, named plans out."""
