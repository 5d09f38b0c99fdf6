import sys

from tools.kill_check import main


def test_work_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(monkeypatch, capsys):
    """One random kill each of training, profiling and accuracy measurement; tools/kill_check.py does more."""
    monkeypatch.setattr(sys, "argv", ["kill_check.py", "--times", "1"])
    code = main()
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.count(": ok") == 3
