"""How a tier is measured: in process, through the embedded server, or where Triton already serves it."""
