"""Other doors to the same engine."""
