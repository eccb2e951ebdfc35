# mypy: ignore-errors
"""Pathway: with persistence a message is acknowledged once a checkpoint covers it; the table is a snapshot by
device and time, so that a repeated message is the row that is there.
"""

import logging
import os
from urllib.parse import urlsplit

import pathway as pw

logging.disable(logging.INFO)  # it tells of each acknowledgement
dsn = urlsplit(os.environ["PEER_DSN"])


class Sample(pw.Schema):
    device: str = pw.column_definition(primary_key=True)
    ts: int = pw.column_definition(primary_key=True)
    metrics: pw.Json


samples = pw.io.mqtt.read(
    f"mqtt://127.0.0.1:{os.environ['PEER_BROKER_PORT']}/?client_id={os.environ['PEER_CLIENT']}",
    os.environ["PEER_FILTER"],
    qos=1,
    schema=Sample,
    format="json",
    autocommit_duration_ms=200,
    name="samples",
)
pw.io.postgres.write(
    samples,
    {
        "host": dsn.hostname,
        "port": str(dsn.port),
        "user": dsn.username,
        "password": dsn.password,
        "dbname": dsn.path[1:],
    },
    "sample",
    output_table_type="snapshot",
    primary_key=[samples.device, samples.ts],
    name="sample",
)
pw.run(
    monitoring_level=pw.MonitoringLevel.NONE,
    persistence_config=pw.persistence.Config(
        pw.persistence.Backend.filesystem(os.environ["PEER_DIRECTORY"]), snapshot_interval_ms=200
    ),
)
