"""Large clusters: patterns of one device or host, priced, listed, and put together in whole numbers."""
