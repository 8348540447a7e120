"""`python -m proofs`: what a fleet must show to be believed, on a real Redis and with 64 real processes."""
