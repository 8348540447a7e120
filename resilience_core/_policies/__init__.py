"""The policies: options, and the two weaves of each (twins, kept equal by a test)."""
