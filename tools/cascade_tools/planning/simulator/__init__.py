"""A served cascade, event by event and batch by batch: what will happen at which load."""
