"""What goes wrong by script: the faults, the answers that they make up, and scenarios of them by name."""
