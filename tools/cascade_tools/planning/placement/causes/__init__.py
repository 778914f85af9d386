"""Why there is no placement, and what would help."""
