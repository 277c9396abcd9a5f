"""`python -m dlka_med` is the command `dlka`."""

import sys

from dlka_med.cli import main

if __name__ == "__main__":
    sys.exit(main())
