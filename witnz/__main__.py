"""``python -m witnz``."""

from __future__ import annotations

import sys

from witnz.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
