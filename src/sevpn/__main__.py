# SPDX-License-Identifier: Apache-2.0
"""`python -m sevpn`: the same as the command `sevpn`; and where the one-file executable begins.

Layer: above all. Runs in: the main thread.
"""

import os

from sevpn.cli.main import main
from sevpn.config.frozen import is_frozen, restore_environment

if __name__ == "__main__":
    restore_environment(os.environ, frozen=is_frozen())
    main()
