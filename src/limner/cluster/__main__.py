"""`python -m limner.cluster ...` is `limner cluster ...`, and starts without anything that it does not need."""

from __future__ import annotations

import sys

from limner.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
