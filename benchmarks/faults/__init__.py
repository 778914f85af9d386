"""What `benchmarks.chaos` and `benchmarks.soak` share: a cascade, its oracle, a load, a server."""
