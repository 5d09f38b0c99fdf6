import subprocess
import sys

from tests.conftest import REPO


def test_work_that_was_killed_goes_on_and_ends_as_if_it_had_not_been():
    """One random kill each of training, profiling and accuracy measurement; tools/kill_check.py does more."""
    command = [sys.executable, REPO / "tools" / "kill_check.py", "--times", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok") == 3
