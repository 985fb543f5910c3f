# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

from sevpn.protocol.policy import POLICY_NAMES, decode_policy, policy_elements
from sevpn.wire.pack import Pack, integer, text

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "protocol.md"


def test_what_is_not_named_is_sent_as_0() -> None:
    elements = policy_elements({"DHCPForce": 1, "TimeOut": 20})

    assert len(elements) == 39
    assert {e.name: e.values for e in elements if e.values != (0,)} == {
        "policy:DHCPForce": (1,),
        "policy:TimeOut": (20,),
    }


def test_what_was_sent_is_read_under_its_own_spelling() -> None:
    pack = Pack([integer("POLICY:DHCPFORCE", 1), integer("policy:NoSuchThing", 1)])

    assert decode_policy(pack) == {"DHCPForce": 1}
    assert decode_policy(Pack()) == {}


def test_an_entry_of_another_kind_is_0() -> None:
    assert decode_policy(Pack([text("policy:Access", "yes")])) == {"Access": 0}


def test_the_reference_explains_each_name() -> None:
    section = REFERENCE.read_text(encoding="utf-8").partition("\n## Policy\n")[2]
    table = section.partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }

    assert named == set(POLICY_NAMES)
