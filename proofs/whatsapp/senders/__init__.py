"""The programs that send: ours, and those it is compared with. Each is a process of its own, killed at any time."""
