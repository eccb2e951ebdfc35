"""`python -m gateway.embedded.rumqttd FILE`: rumqttd in this process until it is ended."""

from __future__ import annotations

import sys

from iotcore import IotCoreBroker

if __name__ == "__main__":
    IotCoreBroker(config_path=sys.argv[1]).run_forever()
