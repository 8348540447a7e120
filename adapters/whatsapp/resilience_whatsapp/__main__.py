"""`python -m resilience_whatsapp` is the command line `resilience-whatsapp`."""

from __future__ import annotations

import sys

from resilience_whatsapp.cli import main

if __name__ == "__main__":
    sys.exit(main())
