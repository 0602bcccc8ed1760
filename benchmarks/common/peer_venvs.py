"""Virtual environments of the peers: made once in `benchmarks/.venv-PEER`, apart from the project's."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
TORCH = "torch>=2.11,<2.14"  # the version range of this project
PEERS = {
    "transformers": ["transformers>=5", "datasets>=4", "accelerate>=1.1"],
    "streaming": ["mosaicml-streaming>=0.13", "setuptools"],  # requires transformers below 5
}


def peer_python(peer: str) -> str:
    """Return the Python of a peer's environment. Create the environment if it is missing or outdated."""
    directory = BENCHMARKS / f".venv-{peer}"
    python = directory / "bin" / "python"
    marker, requirements = directory / "installed", "\n".join(PEERS[peer])
    if not marker.exists() or marker.read_text() != requirements:
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        subprocess.run([*pip, TORCH], check=True)
        # The bound again: the peer's requirements must not install another torch.
        subprocess.run([*pip, TORCH, *PEERS[peer]], check=True)
        marker.write_text(requirements)
    return str(python)
