"""A served cascade against its last tier, as a client sees them."""
