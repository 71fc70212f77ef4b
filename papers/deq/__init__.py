"""DEQ and MDEQ: networks defined by their fixed point."""
