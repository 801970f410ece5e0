"""How scores and people agree; without torch."""
