"""What the documentation shows is run, and what it lists is generated."""
