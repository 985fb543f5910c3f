# SPDX-License-Identifier: Apache-2.0
"""What the tests over loopback share."""

from __future__ import annotations

import pytest

from sevpn.dataplane.path import is_compiled
from sevpn.testing.certs import Authority, make_authority


@pytest.fixture(params=["python", "compiled"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with either form of the frame path."""
    monkeypatch.setenv("SEVPN_KERNEL", request.param)
    if request.param == "compiled" and not is_compiled():
        pytest.skip("the kernel is not compiled: there is no C compiler")
    return str(request.param)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of the file's own."""
    return make_authority(tmp_path_factory.mktemp("ca"))
