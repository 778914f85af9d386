"""What this machine is, and its meters."""
