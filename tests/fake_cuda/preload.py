"""What must happen before torch and DeepSpeed are imported."""

import os

from tests.fake_cuda.library import load_library

os.environ["DS_ACCELERATOR"] = "cuda"
LIBRARY = load_library()
