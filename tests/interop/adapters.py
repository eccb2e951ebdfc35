"""Brokers that are started, stopped, killed and reached in one way. Each says what it needs; one that is not
here is left out with that sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.servers import Mosquitto, accepts, end, free_port, wait_until

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
INTO = ROOT / "build" / "interop"
DEBIAN = INTO / "debian"
MOUNTS = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --bind /tmp "$0/tmp" && exec chroot "$0" "$@"'
START_SECONDS = 120.0


class Missing(Exception):
    """The broker is not here; the text says what would bring it."""


class Broker:
    """One broker of `nodes` nodes, each a process. `name` is the key in the result, `title` what people read."""

    name: str
    title: str
    package: str
    """Where it comes from."""
    configuration: str
    """What is set beside its defaults, in words."""
    nodes = 1

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"interop-{self.name}-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.ports = [free_port() for _ in range(self.nodes)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * self.nodes
        self.prepare()

    @property
    def port(self) -> int:
        """Of the first node that accepts connections, else of the first."""
        return next((port for port in self.ports if accepts(port)), self.ports[0])

    def prepare(self) -> None:
        """Writes what the nodes need. Raises Missing."""

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        """What starts the node, and its environment beside ours."""
        raise NotImplementedError

    def version(self) -> str:
        """As the broker or its package says."""
        raise NotImplementedError

    async def start(self) -> None:
        """All nodes; returns when every one that should accept connections does."""
        for node in range(self.nodes):
            self._spawn(node)
        await self.ready()

    async def ready(self) -> None:
        for node in range(self.nodes):
            await self._accepts(node)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """All nodes, by the signal."""
        await asyncio.gather(*(self.stop_node(node, number) for node in range(self.nodes)))

    async def stop_node(self, node: int, number: signal.Signals) -> None:
        """With SIGKILL everything that it started goes, too."""
        process, self._processes[node] = self._processes[node], None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            await end(process, number, seconds=60)
        except TimeoutError as error:
            print(f"  {self.name}: {error}", flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await wait_until(lambda: not accepts(self.ports[node]), what="the port is free", seconds=30)

    async def start_node(self, node: int) -> None:
        self._spawn(node)
        await self._accepts(node)

    async def another(self, node: int) -> int:
        """The port of another node, once one accepts connections."""
        others = [port for place, port in enumerate(self.ports) if place != node]
        await wait_until(
            lambda: any(map(accepts, others)), what="another node accepts", seconds=START_SECONDS
        )
        return next(port for port in others if accepts(port))

    async def remove(self) -> None:
        """Ends what runs and deletes what was written."""
        await self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, node: int) -> None:
        command, more = self.command(node)
        with (self.folder / f"node-{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env={**os.environ, **more}, start_new_session=True,
            )  # fmt: skip

    async def _accepts(self, node: int) -> None:
        process = self._processes[node]
        assert process is not None
        await wait_until(
            lambda: accepts(self.ports[node]) or process.poll() is not None,
            what=f"{self.name} accepts connections",
            seconds=START_SECONDS,
        )
        if process.poll() is not None:
            last = (self.folder / f"node-{node}.log").read_text(errors="replace")[-500:]
            raise Missing(f"it ended at its start: {last}")


def there(path: Path, name: str) -> Path:
    if not path.exists():
        raise Missing(f"`tests/interop/get {name}` brings it")
    return path


def first_line(command: Sequence[str], pattern: str) -> str:
    said = subprocess.run(list(command), capture_output=True, text=True, check=False, timeout=60)
    found = re.search(pattern, said.stdout + said.stderr)
    return found[1] if found else "unknown"


def in_debian(*command: str) -> list[str]:
    """In the folder of the newest suite, as root, in mounts of its own."""
    there(DEBIAN / "usr", "debian")
    if os.geteuid() != 0:
        raise Missing("chroot into build/interop/debian needs root")
    return ["unshare", "--mount", "sh", "-c", MOUNTS, str(DEBIAN), *command]


class MosquittoHere(Broker):
    name, title = "mosquitto", "Mosquitto"
    package = "apt: mosquitto (the suite of this machine)"
    configuration = "persistence, autosave_interval 5, no bounds on queues and flight"
    binary: tuple[str, ...] = ()

    def prepare(self) -> None:
        path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
        found = shutil.which("mosquitto", path=path)
        if found is None:
            raise Missing("`make packages` brings it")
        self.binary = (found,)
        self.write()

    def write(self) -> None:
        made = Mosquitto(self.folder, persistent=True, extra="autosave_interval 5")
        self.ports = [made.port]

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        return (*self.binary, "-c", str(self.folder / "mosquitto.conf")), {}

    def version(self) -> str:
        return first_line((*self.binary, "-h"), r"version (\S+)")


class MosquittoNewest(MosquittoHere):
    name, title = "mosquitto-newest", "Mosquitto, newest"
    package = "apt: mosquitto of Debian's unstable suite, in a folder"

    def prepare(self) -> None:
        self.binary = tuple(in_debian("/usr/sbin/mosquitto"))
        self.write()


class Rumqttd(Broker):
    name, title = "rumqttd", "rumqttd"
    package = "pip: iotcore"
    configuration = "as the embedded broker has it"

    def prepare(self) -> None:
        from gateway.embedded.broker import rumqttd_configuration

        (self.folder / "rumqttd.toml").write_text(rumqttd_configuration(self.ports[0]))

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        command = [sys.executable, "-m", "tests.interop.rumqttd", str(self.folder / "rumqttd.toml")]
        return command, {"PYTHONPATH": str(ROOT)}

    def version(self) -> str:
        from importlib.metadata import version

        return f"of iotcore {version('iotcore')}"


class Mochi(Broker):
    name, title = "mochi", "mochi-mqtt"
    package = "Go: github.com/mochi-mqtt/server/v2"
    configuration = "bolt storage without fsync, message expiry up to 7 d, wide windows (tests/interop/mochi)"

    def prepare(self) -> None:
        self.binary = there(INTO / "bin" / "mochi", "mochi")

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        return [str(self.binary), f"127.0.0.1:{self.ports[0]}", str(self.folder / "bolt")], {}

    def version(self) -> str:
        return first_line(("grep", "mochi-mqtt", str(HERE / "mochi" / "go.mod")), r"v2 (\S+)")


class Hive(Broker):
    name, title = "hivemq", "HiveMQ CE"
    package = "Maven: com.hivemq:hivemq-community-edition-embedded"
    configuration = "persistence in files, queues up to 1,000,000 messages, everybody let in"
    jars = "hivemq"

    def prepare(self) -> None:
        there(INTO / "hivemq", "hivemq")
        for part in ("conf", "data", "extensions"):
            (self.folder / part).mkdir()
        (self.folder / "conf" / "config.xml").write_text(
            f"""<?xml version="1.0"?>
<hivemq>
  <listeners><tcp-listener><port>{self.ports[0]}</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>
  <mqtt><queued-messages><max-queue-size>1000000</max-queue-size></queued-messages></mqtt>
  <persistence><mode>file</mode></persistence>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
"""
        )

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        opens = ["java.lang", "java.nio", "sun.nio.ch", "sun.security.provider"]
        return [
            "java", "-Xmx1g", *(f"--add-opens=java.base/{one}=ALL-UNNAMED" for one in opens),
            "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED", "-cp", f"{INTO / 'hivemq'}/*",
            str(HERE / "Hive.java"), *(str(self.folder / part) for part in ("conf", "data", "extensions")),
        ], {}  # fmt: skip

    def version(self) -> str:
        (jar,) = (INTO / "hivemq").glob("hivemq-community-edition-embedded-*.jar")
        return jar.stem.rpartition("-")[2]


class Moquette(Broker):
    name, title = "moquette", "Moquette"
    package = "Maven: io.moquette:moquette-broker"
    configuration = "persistence in files"

    def prepare(self) -> None:
        there(INTO / "moquette", "moquette")
        (self.folder / "config").mkdir()
        (self.folder / "data").mkdir()
        (self.folder / "config" / "moquette.conf").write_text(
            f"host 127.0.0.1\nport {self.ports[0]}\nallow_anonymous true\npersistence_enabled true\n"
            f"data_path {self.folder}/data\nautosave_interval 1\ntelemetry_enabled false\n"
            "netty.mqtt.message_size 4194304\n"
        )

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        path = f"-Dmoquette.path={self.folder}"
        return ["java", "-Xmx1g", path, "-cp", f"{INTO / 'moquette'}/*", "io.moquette.broker.Server"], {}

    def version(self) -> str:
        (jar,) = (INTO / "moquette").glob("moquette-broker-*.jar")
        return jar.stem.rpartition("-")[2]


class Artemis(Broker):
    name, title = "artemis", "Apache ActiveMQ Artemis"
    package = "Maven: org.apache.activemq:apache-artemis (binary distribution)"
    configuration = "as its `create` makes it, NIO journal"

    def prepare(self) -> None:
        there(INTO / "artemis" / "bin", "artemis")
        self._inner = [free_port() for _ in range(self.nodes)]
        for node in range(self.nodes):
            self.create(node, [])

    def create(self, node: int, more: Sequence[str]) -> None:
        made = self.folder / f"node{node}"
        subprocess.run(
            [
                str(INTO / "artemis" / "bin" / "artemis"), "create", str(made), "--user", "u", "--password", "p",
                "--allow-anonymous", "--silent", "--nio", "--no-amqp-acceptor", "--no-hornetq-acceptor",
                "--no-stomp-acceptor", "--no-web", "--no-autotune", "--host", "127.0.0.1",
                "--default-port", str(self._inner[node]), *more,
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        file = made / "etc" / "broker.xml"
        text = re.sub(r"tcp://[^:]+:1883\?", f"tcp://127.0.0.1:{self.ports[node]}?", file.read_text())
        file.write_text(text)

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        return [str(self.folder / f"node{node}" / "bin" / "artemis"), "run"], {}

    def version(self) -> str:
        (jar,) = (INTO / "artemis" / "lib").glob("artemis-server-[0-9]*.jar")
        return jar.stem.rpartition("-")[2]


class ArtemisPair(Artemis):
    name, title = "artemis-pair", "Artemis, replicated pair"
    configuration = (
        "a primary and a backup that replicates its journal; the backup serves when the primary is gone"
    )
    nodes = 2

    def create(self, node: int, more: Sequence[str]) -> None:
        other = f"tcp://127.0.0.1:{self._inner[1 - node]}"
        pair = [
            "--clustered", "--replicated", "--failover-on-shutdown", "--cluster-user", "c",
            "--cluster-password", "c", "--static-cluster", other,
        ]  # fmt: skip
        super().create(node, [*pair, *(["--backup"] if node else [])])

    async def ready(self) -> None:
        await self._accepts(0)
        await wait_until(self._replicates, what="the backup is in step", seconds=START_SECONDS)

    def _replicates(self) -> bool:
        logs = self.folder.glob("node*/log/artemis.log")
        return any("is synchronized" in log.read_text(errors="replace") for log in logs)

    async def start(self) -> None:
        for log in self.folder.glob("node*/log/artemis.log"):
            log.unlink()
        await super().start()

    async def start_node(self, node: int) -> None:
        """It is the backup of the other now: it accepts no connections."""
        self._spawn(node)


class Rabbit(Broker):
    name, title = "rabbitmq", "RabbitMQ"
    package = "apt: rabbitmq-server of Debian's unstable suite, in a folder"
    configuration = "its MQTT plugin, classic queues, prefetch 1,000"
    more = ""

    def prepare(self) -> None:
        in_debian()
        self._epmd = free_port()
        self._distribution = [free_port() for _ in range(self.nodes)]
        (self.folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        for node in range(self.nodes):
            home = self.folder / f"home{node}"
            home.mkdir()
            (home / ".erlang.cookie").write_text("FIELDGATEINTEROP")
            (home / ".erlang.cookie").chmod(0o400)
            peers = "".join(
                f"cluster_formation.classic_config.nodes.{place + 1} = {self.name}{place}@localhost\n"
                for place in range(self.nodes)
            )
            (home / "rabbitmq.conf").write_text(
                "listeners.tcp = none\nloopback_users.guest = false\nanonymous_login_user = guest\n"
                "anonymous_login_pass = guest\nmqtt.max_session_expiry_interval_seconds = 604800\nmqtt.prefetch = 1000\n"
                f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.ports[node]}\n"
                f"cluster_formation.peer_discovery_backend = classic_config\n{peers}{self.more}"
            )

    def command(self, node: int) -> tuple[Sequence[str], dict[str, str]]:
        (program,) = (DEBIAN / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server")
        home = self.folder / f"home{node}"
        return in_debian("/" + str(program.relative_to(DEBIAN))), {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{self.name}{node}@localhost",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_DIST_PORT": str(self._distribution[node]),
            "RABBITMQ_PID_FILE": str(home / "pid"),
        }

    async def remove(self) -> None:
        await super().remove()
        subprocess.run(
            in_debian("/usr/bin/epmd", "-kill"), capture_output=True, check=False,
            env={**os.environ, "ERL_EPMD_PORT": str(self._epmd)},
        )  # fmt: skip

    def version(self) -> str:
        (program,) = (DEBIAN / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")
        return program.name.rpartition("-")[2]


class RabbitCluster(Rabbit):
    name, title = "rabbitmq-3", "RabbitMQ, three nodes"
    configuration = "its MQTT plugin, quorum queues for sessions that last, consumer_disconnected_timeout 5 s, prefetch 1,000"
    nodes = 3
    more = "mqtt.durable_queue_type = quorum\nconsumer_disconnected_timeout = 5000\n"


ADAPTERS: dict[str, Callable[[], Broker]] = {
    one.name: one
    for one in (
        MosquittoHere, MosquittoNewest, Rumqttd, Mochi, Hive, Moquette, Artemis, ArtemisPair, Rabbit, RabbitCluster,
    )
}  # fmt: skip
