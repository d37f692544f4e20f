"""Work in several processes: all of it is done, and none of it outlives the one who asked."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from merkhet.core.processes import in_processes

ENDS_WITHIN = 20.0  # seconds; a worker that stays would be there for good
ASKS = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_processes import waiting
from merkhet.core.processes import in_processes
if __name__ == "__main__":
    list(in_processes({{"one": partial(waiting, {path!r})}}, 1))
"""


def waiting(path: str) -> None:
    """Write this process's number, then do nothing for long."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return False
    return state[0] != "Z"


def test_all_work_is_done_with_one_thread_each() -> None:
    work = {"power": functools.partial(pow, 3, 2), "threads": torch.get_num_threads}
    found = {name: value for name, value, _ in in_processes(work, 2)}
    assert found == {"power": 9, "threads": 1}
    assert list(in_processes({})) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are seen in /proc")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, path = tmp_path / "asks.py", tmp_path / "number"
    folder = str(Path(__file__).parent)
    script.write_text(ASKS.format(folder=folder, path=str(path)), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)])
    while not (path.exists() and path.read_text(encoding="utf-8")):
        assert parent.poll() is None
        time.sleep(0.05)
    worker = int(path.read_text(encoding="utf-8"))
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + ENDS_WITHIN
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
