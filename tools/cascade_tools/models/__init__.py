"""A tier's model: where it comes from, its head, and the formats that it is served in."""
