"""64 processes and a real Redis against each promise of a fleet: `python -m proofs.fleet`."""
