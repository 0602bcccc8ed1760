"""Virtual environments of the peers: made once, kept beside this file, never the project's own."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "torch>=2.11,<2.14"  # the project's own
PEERS = {
    "transformers": ["transformers>=5", "datasets>=4", "accelerate>=1.1"],
    "streaming": ["mosaicml-streaming>=0.13", "setuptools"],  # wants transformers below 5
}


def python_of(peer: str) -> str:
    """The interpreter that has a peer; its environment is made if it is not there, or lacks some."""
    directory = HERE / f".venv-{peer}"
    python = directory / "bin" / "python"
    done, wanted = directory / "installed", "\n".join(PEERS[peer])
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        subprocess.run([*pip, TORCH], check=True)
        # The bound again: a peer's own needs must not bring another torch.
        subprocess.run([*pip, TORCH, *PEERS[peer]], check=True)
        done.write_text(wanted)
    return str(python)
