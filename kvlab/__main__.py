"""`python -m kvlab`: see `kvlab.cli`."""

import sys

from kvlab.cli import main

sys.exit(main())
