"""Starts a program in processes that find one another, without the imports of a real launcher.

python tests/helpers/spawn.py NUMBER PORT PROGRAM ARGUMENTS

For tests whose subject is not the launcher: DeepSpeed's takes ten seconds of a core before the
program begins. It ends with the code of the process that failed first, after ending the others.
"""

import os
import subprocess
import sys
import time

PATIENCE_S = 60.0  # for workers to exit after SIGTERM


def main() -> int:
    """Run the program on the ranks that the arguments name."""
    size, port, *program = sys.argv[1:]
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for rank in map(str, range(int(size))):
        environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_SIZE": size}
        running.append(subprocess.Popen([sys.executable, *program], env=environment))
    code, failed_at = 0, float("inf")
    while running:
        time.sleep(0.05)
        for process in [one for one in running if one.poll() is not None]:
            running.remove(process)
            if process.returncode and not code:
                code, failed_at = process.returncode, time.monotonic()
                for other in running:
                    other.terminate()
        if time.monotonic() > failed_at + PATIENCE_S:
            for other in running:
                other.kill()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
