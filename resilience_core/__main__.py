"""`python -m resilience_core`: the command line."""

import sys

from resilience_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
