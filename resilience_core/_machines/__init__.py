"""The rules, one law a file. Time and randomness are arguments; no clock, lock, I/O, logging, asyncio or threads."""
