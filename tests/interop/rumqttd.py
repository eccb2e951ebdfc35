"""A rumqttd in a process of its own, so that it can be killed: python -m tests.interop.rumqttd FILE."""

from __future__ import annotations

import signal
import sys

from iotcore import Broker

if __name__ == "__main__":
    broker = Broker(config_path=sys.argv[1])
    broker.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    broker.stop()
