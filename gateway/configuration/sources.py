"""Telemetry sources: rules that cannot be used, examples that fail, sources that overlap, and partitions that
have nobody to divide.
"""

from __future__ import annotations

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath
from gateway.model.topics import overlapping
from gateway.payloads.sources import CompiledSource, SourceError, compile_one, only
from gateway.settings import Settings


def faults_of(settings: Settings, document: LocatedDocument) -> list[ConfigurationFault]:
    """What is wrong with the sources as a whole."""
    faults: list[ConfigurationFault] = []
    compiled: list[CompiledSource] = []
    for index, source in enumerate(settings.telemetry.sources):
        path: KeyPath = ("telemetry", "sources", index)
        try:
            compiled += compile_one(source, index)
        except SourceError as error:
            key: KeyPath = (*path, *error.key.split("."))
            faults.append(ConfigurationFault(place=document.place(key), path=key, message=str(error)))
    by_template = {id(one.source): one.place for one in compiled}
    for first, second in overlapping(only(compiled)):
        if first.topic != second.topic and settings.broker.partitions == 1:
            continue  # one session tells copies of a message apart; the first source that matches takes it
        path = ("telemetry", "sources", by_template[id(second)])
        where = document.place(("telemetry", "sources", by_template[id(first)]))
        message = (
            f"{second.topic!r} overlaps {first.topic!r} ({where}): a message could match both, and would"
            " arrive twice or never reach the second; make one level a different literal"
        )
        faults.append(ConfigurationFault(place=document.place(path), path=path, message=message))
    if settings.broker.partitions > 1 and (
        settings.telemetry.auto_register_customers or not settings.customers
    ):
        path = ("broker", "partitions")
        message = (
            "partitions divide the listed customers: list them in `customers`, with auto_register_customers"
            " off, or set partitions to 1"
        )
        faults.append(ConfigurationFault(place=document.place(path), path=path, message=message))
    return faults
