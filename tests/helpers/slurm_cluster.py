"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, for a test."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.launching import ROOT, environment, free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_CONFIG = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,requeue_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
"""


# Addresses as host names: tasks reach their node list without a name service.
_NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4\n"
_NODES = ("127.0.0.1", "127.0.0.2")


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    path = environment()["PATH"] + ":/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"needs Debian's slurm-wlm and munge ({', '.join(absent)})" if absent else ""


class SlurmCluster:
    """A context manager; the daemons and all jobs end with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "state").mkdir()
        root.chmod(0o755)
        key = root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        nodes = "".join(_NODE.format(name=name, port=free_port()) for name in _NODES)
        partition = "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        config = _CONFIG.format(root=root, port=free_port())
        (root / "slurm.conf").write_text(config + nodes + partition)
        self.environment = {
            **environment(),
            "PATH": environment()["PATH"] + ":/usr/sbin",
            "PYTHONPATH": str(ROOT),
            "SLURM_CONF": str(root / "slurm.conf"),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        root = self.root
        self._start(
            *("munged", "--force", "--foreground", f"--socket={root}/munge.socket"),
            *(f"--key-file={root}/munge.key", f"--pid-file={root}/munged.pid"),
            *(f"--log-file={root}/munged.log", f"--seed-file={root}/munged.seed"),
        )
        self._wait(lambda: (root / "munge.socket").exists())
        self._start("slurmctld", "-D")
        for name in _NODES:
            self._start("slurmd", "-D", "-N", name)
        self._wait(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            subprocess.run(
                ["scancel", "--full", "--signal=KILL", "--user=root"],
                check=False,
                env=self.environment,
            )
            subprocess.run(["scancel", "--user=root"], env=self.environment, check=True)
            self._wait(lambda: not self.ask("squeue", "-h").strip())
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
                daemon.wait()

    def _start(self, *command: str) -> None:
        log = (self.root / f"daemon-{len(self._daemons)}.log").open("wb")
        with log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            )

    def _wait(self, done: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        texts = [path.read_text(errors="replace") for path in self.root.glob("daemon-*.log")]
        return "\n".join(text[-2000:] for text in texts)

    def ask(self, *command: str) -> str:
        """Run a Slurm command; its output, or empty while the controller does not answer."""
        done = subprocess.run(
            command, check=False, env=self.environment, capture_output=True, text=True
        )
        return done.stdout if done.returncode == 0 else ""

    def submit(self, *arguments: str) -> str:
        """Submit a job from the repository's root; its id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            check=False,
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for_job(self, job: str, seconds: float = 900) -> None:
        """Wait until all of the job has left the queue."""
        self._wait(lambda: self._is_over(job), seconds)

    def _is_over(self, job: str) -> bool:
        states = self.ask("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").split()
        going = {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED"}
        return not going & set(states)

    def facts(self, job: str) -> dict[str, str]:
        """The output of `scontrol show job`, by key."""
        text = self.ask("scontrol", "show", "job", job)
        pairs = [word.partition("=") for word in text.split() if "=" in word]
        return {key: value for key, _, value in pairs}
