"""`python -m resilience_core`: the command line."""

import sys

from resilience_core.cli import main

sys.exit(main())
