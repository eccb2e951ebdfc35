"""A YAML file as plain data, with the line of every key and value."""

from __future__ import annotations

from pathlib import Path

import yaml

from gateway.configuration.fault import ConfigurationFault, FilePlace, KeyPath

MAX_NODES = 500_000
"""Far more than any real file: a small file of nested aliases must not fill the memory."""


class LocatedDocument:
    """Data that can be told apart by where it came from. Faults of the file itself are in `faults`; `absent`
    are the places of secrets that are not there, and that nobody needs now.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.data: dict[str, object] = {}
        self.faults: list[ConfigurationFault] = []
        self.absent: set[KeyPath] = set()
        self._places: dict[KeyPath, FilePlace] = {}

    @classmethod
    def read(cls, path: Path, *, advice: str) -> LocatedDocument:
        """The file's mapping; an empty one, with a fault, where it can't be read. `advice` says what to do
        when it is missing.
        """
        document = cls(str(path))
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            document.fault((), f"no such file; {advice}", line=None)
        except OSError as error:
            document.fault((), f"cannot be read: {error.strerror}; name a file of YAML", line=None)
        except UnicodeDecodeError as error:
            document.fault((), f"is no text in UTF-8 (byte {error.start + 1}); save it as such", line=None)
        else:
            document._parse(text)
        return document

    def fault(self, path: KeyPath, message: str, *, line: int | None) -> None:
        """Notes a fault at a line of this file."""
        self.faults.append(
            ConfigurationFault(place=FilePlace(file=self.file, line=line), path=path, message=message)
        )

    def place(self, path: KeyPath) -> FilePlace:
        """Where this path is written, or the nearest one above it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._places:
                return self._places[path[:length]]
        return FilePlace(file=self.file)

    def is_absent(self, path: KeyPath) -> bool:
        """Whether a secret that is not there stands at this path, above it or below it."""
        return any(known[: len(path)] == path[: len(known)] for known in self.absent)

    def leave_out(self, path: KeyPath) -> None:
        """Takes a key out, so that its default holds; an item of a list stays."""
        target: object = self.data
        for key in path[:-1]:
            target = target.get(str(key)) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target.pop(str(path[-1]), None)

    def put(self, path: KeyPath, value: object, place: FilePlace) -> None:
        """Sets a value from elsewhere (an override) over what the file says; missing mappings on the way are
        made.
        """
        target: dict[str, object] = self.data
        for key in path[:-1]:
            below = target.get(str(key))
            if not isinstance(below, dict):
                below = {}
                target[str(key)] = below
            target = below
        target[str(path[-1])] = value
        self._places = {known: at for known, at in self._places.items() if known[: len(path)] != path}
        self._places[path] = place

    def _parse(self, text: str) -> None:
        loader = None
        try:
            loader = yaml.SafeLoader(text)  # looks at every character already
            node = loader.get_single_node()
            if node is None:
                return
            data = _Builder(self, loader).build(node, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.fault(
                (),
                f"is not YAML: {error.problem or error.context}",
                line=None if mark is None else mark.line + 1,
            )
            return
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, int(error.position)) + 1
            self.fault(
                (), f"is not YAML: the character U+{ord(text[error.position]):04X} stands there", line=line
            )
            return
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.fault((), f"is not YAML: {error}", line=None)
            return
        finally:
            if loader is not None:
                loader.dispose()
        if isinstance(data, dict):
            self.data = data
        elif data is not None:
            self.fault((), "must be a mapping of keys to values", line=node.start_mark.line + 1)

    def mark(self, path: KeyPath, node: yaml.Node) -> None:
        """Remembers where `path` is written."""
        self._places[path] = FilePlace(file=self.file, line=node.start_mark.line + 1)


class _Builder:
    """Nodes to data. A key given twice is a fault, since YAML would silently take the last."""

    def __init__(self, document: LocatedDocument, loader: yaml.SafeLoader) -> None:
        self._document = document
        self._loader = loader
        self._nodes = 0

    def build(self, node: yaml.Node, path: KeyPath, above: tuple[int, ...]) -> object:
        self._nodes += 1
        if self._nodes > MAX_NODES or id(node) in above:
            raise yaml.constructor.ConstructorError(
                None, None, "aliases make it endless or too large", node.start_mark
            )
        if path not in self._document._places:
            self._document.mark(path, node)
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path, (*above, id(node)))
            case yaml.SequenceNode():
                return [
                    self.build(item, (*path, index), (*above, id(node)))
                    for index, item in enumerate(node.value)
                ]
            case _:
                value: object = self._loader.construct_object(node)
                return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[int, ...]) -> dict[str, object]:
        built: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            below = (*path, key)
            if key in built:
                first = self._document.place(below).line
                self._document.fault(
                    below,
                    f"is given twice (first in line {first}); keep one",
                    line=key_node.start_mark.line + 1,
                )
                continue
            self._document.mark(below, key_node)
            built[key] = self.build(value_node, below, above)
        return built
