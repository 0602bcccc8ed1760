"""Hosts on this machine: network namespaces joined by a bridge, each with an sshd, for a test.

Each host has its own name, its own `data` directory (mounted under the same path on all), and one
network interface, eth0. The files are shared otherwise, as on a cluster's file system.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.launching import ROOT, environment, free_port

PROGRAMS = {"sshd": "openssh-server", "pdsh": "pdsh", "ip": "iproute2", "unshare": "util-linux"}
_SSHD = """\
Port 22
HostKey {root}/key
AuthorizedKeysFile {root}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PrintMotd no
"""


# An unresponsive host must not hold its ssh session, and so the launcher, for ever.
_SSH = """\
Host *
  IdentityFile {root}/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ServerAliveInterval 5
  ServerAliveCountMax 3
"""


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    path = environment()["PATH"] + ":/usr/sbin"
    absent = [package for name, package in PROGRAMS.items() if not shutil.which(name, path=path)]
    return f"needs Debian's {', '.join(absent)}" if absent else ""


class Hosts:
    """A context manager; namespaces and all processes in them end with it."""

    def __init__(self, root: Path, number: int) -> None:
        self.root = root
        self._tag = f"bertds{uuid.uuid4().hex[:6]}"
        self.addresses = [f"10.87.0.{i + 1}" for i in range(number)]
        self.data = root / "data"
        self.data.mkdir()
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / "key")], check=True
        )
        (root / "sshd_config").write_text(_SSHD.format(root=root))
        (root / "ssh_config").write_text(_SSH.format(root=root))
        shutil.copy(ROOT / "launch" / "deepspeed_env.example", root / ".deepspeed_env")

    def own_data(self, host: int) -> Path:
        """The directory that a host sees as `data`."""
        path = self.root / f"data-of-{host}"
        path.mkdir(exist_ok=True)
        return path

    def __enter__(self) -> Self:
        _ip("netns", "add", f"{self._tag}-switch")
        self._in_switch("link", "add", "bridge", "type", "bridge")
        self._in_switch("link", "set", "bridge", "up")
        for host in range(len(self.addresses)):
            self._connect(host)
            self.start(host, "/usr/sbin/sshd", "-D", "-e", "-f", str(self.root / "sshd_config"))
        return self

    def _connect(self, host: int) -> None:
        name, port = self._namespace(host), f"port{host}"
        _ip("netns", "add", name)
        pair = ("peer", "name", "eth0", "netns", name)
        self._in_switch("link", "add", port, "type", "veth", *pair)
        self._in_switch("link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "addr", "add", f"{self.addresses[host]}/24", "dev", "eth0")
        for interface in ("eth0", "lo"):
            _ip("-n", name, "link", "set", interface, "up")

    def _in_switch(self, *arguments: str) -> None:
        _ip("-n", f"{self._tag}-switch", *arguments)

    def _namespace(self, host: int) -> str:
        return f"{self._tag}-h{host}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in range(len(self.addresses)):
            self._kill(host)
            _ip("netns", "del", self._namespace(host))
        _ip("netns", "del", f"{self._tag}-switch")

    def start(self, host: int, *command: str) -> subprocess.Popen[bytes]:
        """Start a program on a host; its output goes to `output-of-HOST` in the root directory."""
        mounts = [
            "set -e",
            f"hostname h{host}",
            "mount -t tmpfs tmpfs /run; mkdir /run/sshd",
            f"mount --bind {self.own_data(host)} {self.data}",
            f"mount --bind {self.root}/ssh_config /etc/ssh/ssh_config",
            'exec "$@"',
        ]
        namespaces = ["ip", "netns", "exec", self._namespace(host), "unshare", "--mount", "--uts"]
        with (self.root / f"output-of-{host}").open("ab") as output:
            return subprocess.Popen(
                [*namespaces, "sh", "-c", "\n".join(mounts), "sh", *command],
                cwd=self.root,
                env={**environment(), "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def output(self) -> str:
        """The output of host 0, where deepspeed is started."""
        return (self.root / "output-of-0").read_text(errors="replace")

    def deepspeed(self, hosts: int, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `launch/train.py` with one rank on each of the first hosts, from host 0."""
        hostfile = self.root / f"hostfile-{hosts}"
        hostfile.write_text("".join(f"{a} slots=1\n" for a in self.addresses[:hosts]))
        deepspeed = shutil.which("deepspeed", path=environment()["PATH"])
        assert deepspeed is not None
        place = (f"--master_addr={self.addresses[0]}", f"--master_port={free_port()}")
        program = (str(ROOT / "launch" / "train.py"), *arguments)
        # --force_multi: use ssh and .deepspeed_env also with a single host.
        return self.start(0, deepspeed, "--force_multi", f"--hostfile={hostfile}", *place, *program)

    def lose(self, host: int) -> None:
        """Cut a host off, as in a power failure: no packet leaves it, and nothing runs."""
        _ip("-n", self._namespace(host), "link", "set", "eth0", "down")
        self._kill(host)

    def _kill(self, host: int) -> None:
        give_up = time.monotonic() + 30
        while processes := self.processes(host):
            assert time.monotonic() < give_up, processes
            for process in processes:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.2)

    def processes(self, host: int) -> list[int]:
        """All processes of a host, including its sshd."""
        text = _ip("netns", "pids", self._namespace(host))
        return [int(word) for word in text.split() if _runs(int(word))]

    def trainers(self, host: int) -> list[int]:
        """The launchers and workers of a training on a host."""
        found = []
        for process in self.processes(host):
            try:
                command = Path(f"/proc/{process}/cmdline").read_text()
            except OSError:
                continue
            if "deepspeed" in command or "launch/train.py" in command:
                found.append(process)
        return found


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
