"""What every placement is held against, and is never worse than."""
