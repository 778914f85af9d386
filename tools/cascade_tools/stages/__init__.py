"""The stages that touch the world: each loads, calls one pure function, and saves."""
