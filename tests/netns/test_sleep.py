# SPDX-License-Identifier: Apache-2.0
"""A tunnel on a machine that sleeps: the sleep is simulated, all else is real."""

from __future__ import annotations

import signal
import sys
from typing import Final

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Up
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.resolvers import start_system_bus

pytestmark = pytest.mark.netns

GATEWAY = "10.77.0.254"

_SLEEPER: Final = """
import asyncio, signal
from sevpn.cli.main import main
from sevpn.tunnel.supervisor import Supervisor

run = Supervisor.run

async def with_sleep(tunnel):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, tunnel.resumed, 3600.0)
    loop.add_signal_handler(signal.SIGUSR2, tunnel.resumed, 2.0)
    return await run(tunnel)

Supervisor.run = with_sleep
main()
"""
"""sevpn, told by SIGUSR1 that the machine has slept for an hour, by SIGUSR2 for 2 s."""


def up(client: Client, server: EmbeddedServer) -> Up:
    words = ("up", f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice")
    process = client.machine.popen(
        [sys.executable, "-c", _SLEEPER, *words, "--name", "t"],
        env={"SEVPN_PASSWORD": "secret"},
    )
    return Up(client, process, "t")


def test_after_a_long_sleep_the_session_is_begun_again_at_once(
    client: Client, server: EmbeddedServer
) -> None:
    tunnel = up(client, server)
    tunnel.wait()

    tunnel.process.send_signal(signal.SIGUSR1)

    eventually(lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a session")
    status = tunnel.wait()
    assert status["last_error"] == "this machine has slept for 3600 s"
    assert client.machine.pings(GATEWAY)
    assert tunnel.stop().code == 0


def test_a_session_outlives_a_nap(client: Client, server: EmbeddedServer) -> None:
    tunnel = up(client, server)
    tunnel.wait()

    tunnel.process.send_signal(signal.SIGUSR2)

    assert client.machine.pings(GATEWAY)
    status = tunnel.status()
    assert (status["state"], status["counters"]["reconnects"]) == ("connected", 0)
    assert tunnel.stop().code == 0


_WATCH: Final = """
import asyncio
from sevpn.net.sleep import SleepWatch

async def main():
    slept_s = 0.0
    told = asyncio.Queue()
    watch = SleepWatch(told.put_nowait, time_slept=lambda: slept_s, every_s=100000)
    watch.start()
    print("watching", flush=True)
    slept_s = 60.0
    print(await told.get(), flush=True)
    watch.stop()

asyncio.run(main())
"""

_LOGIND: Final = """
import time
from jeepney import DBusAddress, MessageType, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

bus = open_dbus_connection("SYSTEM")
bus.send_and_get_reply(message_bus.RequestName("org.freedesktop.login1"))
manager = DBusAddress("/org/freedesktop/login1", interface="org.freedesktop.login1.Manager")
bus.send(new_signal(manager, "PrepareForSleep", "b", (False,)))
"""


def test_logind_says_it_before_any_timer() -> None:
    with Machine("sleeper") as machine:
        start_system_bus(machine)
        watch = machine.popen([sys.executable, "-c", _WATCH])
        assert watch.stdout is not None
        assert watch.stdout.readline() == "watching\n", watch.communicate()

        machine.python(_LOGIND)

        assert watch.stdout.readline() == "60.0\n"
