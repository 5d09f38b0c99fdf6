import subprocess
import sys

import typer

from ofa_kit.cli.main import app
from tests.conftest import ofa_kit


def test_help_imports_nothing_heavy():
    heavy = ("torch", "pandas", "onnxruntime", "onnx", "sklearn", "numpy")
    code = f"""
import sys
sys.argv = ["ofa-kit", "--help"]
from ofa_kit.cli.main import main
try:
    main()
except SystemExit:
    pass
print([module for module in {heavy} if module in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "train-supernet" in done.stdout


def test_lists_and_doctor(tmp_path):
    assert "ofa-mbv3-w1.0" in ofa_kit("spaces", cwd=tmp_path).out
    assert "cpu-ort" in ofa_kit("devices", cwd=tmp_path).out
    found = ofa_kit("doctor", cwd=tmp_path)
    assert found.code == 0
    assert "ready: onnxruntime" in found.out


def test_an_unknown_option_is_a_user_error(tmp_path):
    assert ofa_kit("spaces", "--nothing", cwd=tmp_path).code == 2


def test_every_command_prints_json():
    def leaves(command, name="ofa-kit"):
        for part, inner in getattr(command, "commands", {}).items():
            yield from leaves(inner, f"{name} {part}")
        if not hasattr(command, "commands"):
            yield name, {option for parameter in command.params for option in parameter.opts}

    found = dict(leaves(typer.main.get_command(app)))
    assert "ofa-kit search enas" in found
    assert [name for name, options in found.items() if "--json" not in options] == []
