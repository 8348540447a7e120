"""What is told by webhook: which statuses and when, in which shape, to whom, and again until it is taken."""
