"""An environment with a stand-in for TensorRT-LLM, whose python an engine's servers are started with."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

FAKE = Path(__file__).with_name("fake_trtllm")


def environment(directory: Path) -> Path:
    """Its python. It has torch from this environment, and ``tensorrt_llm`` from beside this file."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    (packages,) = directory.glob("lib/python3*/site-packages")
    (packages / "fake.pth").write_text(f"{FAKE}\n{sysconfig.get_path('purelib')}\n")
    return directory / "bin" / "python"


def model(directory: Path) -> Path:
    """A model directory that says how large its vocabulary is."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text('{"vocab_size": 1024}')
    return directory
