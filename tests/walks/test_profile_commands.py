"""The ways of `ofa-kit profile` beside the plain one, and the commands on tables, in processes of their own."""

import json
import subprocess
import sys
import zipfile

import pytest

from ofa_kit.latency.device import device_names
from tests.conftest import ofa_kit_forked, ofa_kit_here, real_data

QUICK = """
name: quick
backend: onnxruntime
protocol: {sessions: 2, rounds_per_block: 3, pause_s: 0.0, warmup_runs: 2, warmup_s: 0.0}
"""
PART = ["--space", "mbv3-tiny", "--resolutions", "8,12", "--subnets", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile")
    (path / "quick.yaml").write_text(QUICK)
    return path


def test_a_kit_goes_to_the_board_and_its_results_come_back_as_a_table(folder):
    made = ofa_kit_forked("profile", "--device", "quick.yaml", *PART, "--bundle", "kit.zip", "--json", cwd=folder)
    assert made.code == 0, made.err
    with zipfile.ZipFile(folder / "kit.zip") as kit:
        kit.extractall(folder / "kit")
    subprocess.run([sys.executable, folder / "kit" / "run.py"], check=True, capture_output=True, timeout=120)
    back = ofa_kit_forked("profile", "--import-results", "kit/results", "--json", cwd=folder)
    assert back.code == 0, back.err
    expected = json.loads(made.out)
    found = json.loads(back.out)
    assert (found["blocks"], found["subnets"]) == (expected["blocks"], expected["subnets"]) == (found["blocks"], 5)
    more = ofa_kit_forked("profile", "--device", "quick.yaml", *PART, cwd=folder)
    assert more.code == 2
    assert "was measured elsewhere or imported" in more.err


def test_a_profile_can_be_checked_and_compared(folder):
    tables = ["--tables", "here"]
    assert ofa_kit_forked("profile", "--device", "quick.yaml", *PART, *tables, cwd=folder).code == 0
    again = ofa_kit_forked("profile", "--device", "quick.yaml", *PART, *tables, "--resume", "--json", cwd=folder)
    assert again.code == 0, again.err
    values = json.loads(again.out)
    assert values["subnets"] == 5
    assert {"predictor", "mape", "within_5", "within_10", "tau"} <= values.keys()
    checked = ofa_kit_forked("profile", "--device", "quick.yaml", *PART[:2], *tables, "--check", "--json", cwd=folder)
    assert checked.code in (0, 2), checked.err  # 2: the machine was too busy for so quick a protocol
    assert json.loads(checked.out)["holds"] == (checked.code == 0)
    compared = ofa_kit_here("table", "compare", values["table"], values["table"], "--json", cwd=folder)
    assert [row["largest_difference"] for row in json.loads(compared.out)["agreements"]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["profile", "--space", "mbv3-tiny", "--bundle", "a.zip", "--check"], "--check and --bundle are different"),
        (["profile", "--space", "mbv3-tiny", "--bundle", "kit.tar"], "--bundle takes a .zip file"),
        (["profile", "--space", "mbv3-tiny", "--resolutions", "8;12"], "takes pixels such as 160,224"),
        (["profile", "--space", "mbv3-tiny", "--resolutions", "13"], "has no resolution 13"),
        (["profile", "--space", "mbv3-tiny", "--resume", "--tables", "nowhere"], "no latency table"),
        (["profile", "--space", "mbv3-tiny", "--check", "--tables", "nowhere"], "no latency table"),
        (["profile", "--import-results", "nowhere"], "nowhere"),
        (["profile", "--device", "note10", "--space", "mbv3-tiny"], "known by imported tables alone"),
        (["table", "compare", "a.csv", "b.csv"], "no latency table 'a.csv'"),
        (["table", "import", "a.yaml", "--device", "note10"], "a.yaml"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value[:5]),
)
def test_misuse_ends_with_one_line(folder, arguments, says):
    done = ofa_kit_here(*arguments, cwd=folder)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err


def test_devices_and_doctor_know_every_profile(folder):
    listed = json.loads(ofa_kit_here("devices", "--json", cwd=folder).out)
    judged = json.loads(ofa_kit_here("doctor", "--json", cwd=folder).out)["devices"]
    assert list(listed) == list(judged) == device_names()
    assert all(says.startswith(("ready: ", "cannot run: ")) and "\n" not in says for says in judged.values())
    assert judged["cpu-ort"].startswith("ready: onnxruntime")


def test_tables_of_mit_become_a_device(folder):
    files = [real_data(f"ofa_note10/{size}_lookup_table.yaml") for size in (160, 224)]
    done = ofa_kit_here("table", "import", *map(str, files), "--device", "note10", cwd=folder)
    assert done.code == 0, done.err
    assert "imported, not calibrated" in done.out
