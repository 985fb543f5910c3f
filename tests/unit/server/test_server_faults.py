# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sevpn.errors import LocalProtocolError
from sevpn.server.faults import AnswerError, Close, CloseAfter, Faults, Silence, Stage


def test_a_fault_happens_as_often_as_planned() -> None:
    faults = Faults()
    faults.at(Stage.HELLO, Silence(), times=2)

    assert [faults.take(Stage.HELLO) for _ in range(3)] == [Silence(), Silence(), None]


def test_a_fault_may_happen_for_ever() -> None:
    faults = Faults()
    faults.at(Stage.HELLO, Silence(), times=None)

    assert all(faults.take(Stage.HELLO) == Silence() for _ in range(9))
    faults.clear()
    assert faults.take(Stage.HELLO) is None


def test_faults_of_one_stage_follow_each_other_and_stages_are_apart() -> None:
    faults = Faults()
    faults.at(Stage.HELLO, AnswerError(10))
    faults.at(Stage.HELLO, Close())

    assert faults.take(Stage.WELCOME) is None
    assert faults.take(Stage.HELLO) == AnswerError(10)
    assert faults.take(Stage.HELLO) == Close()


def test_what_cannot_happen_at_a_stage_is_refused() -> None:
    faults = Faults()

    with pytest.raises(LocalProtocolError):
        faults.at(Stage.SESSION, AnswerError(9))
    with pytest.raises(LocalProtocolError):
        faults.at(Stage.ACCEPT, CloseAfter(sent_bytes=1))
