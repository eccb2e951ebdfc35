# mypy: ignore-errors
"""mq-bridge: its Rust core from MQTT to PostgreSQL; a batch is acknowledged once it is written, and a
repeated message is the row that is there.
"""

import os

from mq_bridge import Route

Route.from_config(
    {
        "input": {
            "mqtt": {
                "url": f"tcp://127.0.0.1:{os.environ['PEER_BROKER_PORT']}",
                "topic": os.environ["PEER_FILTER"],
                "client_id": os.environ["PEER_CLIENT"],
                "clean_session": False,
                "session_expiry_interval": 3600,
                "qos": 1,
                "max_inflight": 65534,
                "queue_capacity": 20_000,
                "protocol": "v5",
            }
        },
        "output": {
            "sqlx": {
                "url": os.environ["PEER_DSN"],
                "table": "sample",
                "columns": "auto",
                "key": "device,ts",
                "max_connections": 2,
            }
        },
        "batch_size": 2000,
        "reconnect_interval_ms": 500,
        "required_delivery": "at_least_once",
    }
).run()
