"""Generation under given experts."""
