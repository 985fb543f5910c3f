# SPDX-License-Identifier: Apache-2.0
"""`python -m sevpn`: the same as the command `sevpn`.

Layer: above all. Runs in: the main thread.
"""

from sevpn.cli.main import main

if __name__ == "__main__":
    main()
