"""Telemetry sources: templates that cannot be used, sources that overlap, and partitions that have nobody to
divide.
"""

from __future__ import annotations

from gateway.configuration.document import Document
from gateway.configuration.fault import Fault, KeyPath
from gateway.model.topics import Source, TemplateError, compile_source, overlapping
from gateway.settings import Settings


def faults_of(settings: Settings, document: Document) -> list[Fault]:
    """What is wrong with the sources as a whole."""
    faults: list[Fault] = []
    compiled: list[Source] = []
    paths: dict[int, KeyPath] = {}
    for index, source in enumerate(settings.telemetry.sources):
        path: KeyPath = ("telemetry", "sources", index)
        try:
            found = compile_source(source.topic, source.format)
        except TemplateError as error:
            faults.append(Fault(place=document.place(path), path=(*path, "topic"), message=str(error)))
            continue
        compiled.append(found)
        paths[id(found)] = path
    for first, second in overlapping(compiled):
        path = paths[id(second)]
        where = document.place(paths[id(first)])
        message = f"{second.topic!r} overlaps {first.topic!r} ({where}): a message could match both and would arrive twice; make one level a different literal"
        faults.append(Fault(place=document.place(path), path=path, message=message))
    if settings.broker.partitions > 1 and (
        settings.telemetry.auto_register_customers or not settings.customers
    ):
        path = ("broker", "partitions")
        message = "partitions divide the listed customers: list them in `customers`, with auto_register_customers off, or set partitions to 1"
        faults.append(Fault(place=document.place(path), path=path, message=message))
    return faults
