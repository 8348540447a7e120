"""What must be shown to be believed, with real servers and real processes: `make prove-fleet`."""
