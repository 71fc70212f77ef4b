"""From runs to what people look at: figures, the claims table, the page."""
