"""Bad input: one line, exit code 2, and nothing that was there is lost."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ofa_kit_here


def refused(*arguments, cwd, says):
    done = ofa_kit_here(*arguments, cwd=cwd)
    assert done.code == 2, (done.out, done.err)
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert done.err.splitlines()[-1] == lines[0]
    assert "Traceback" not in done.err
    assert says in lines[0], lines[0]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train-supernet", "--space", "mbv3-tini"], "did you mean 'mbv3-tiny'"),
        (["train-supernet", "--recipe", "digit"], "did you mean 'digits'"),
        (["train-supernet", "--recipe", "digits", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["train-supernet", "--recipe", "missing.yaml"], "no recipe file 'missing.yaml'"),
        (["train-supernet"], "nothing to train"),
        (["train-supernet", "--space", "mbv3-tiny", "--data", "imagefolder:empty"], "empty"),
        (["profile", "--device", "cpu-otr", "--space", "mbv3-tiny"], "did you mean 'cpu-ort'"),
        (["profile", "--device", "cpu-ort"], "either --run NAME"),
        (["profile", "--device", "cpu-ort", "--space", "mbv3-tiny", "--subnets", "2"], "at least 4"),
        (["specialize", "--run", "digits", "--latency-ms", "0"], "must be above 0"),
        (["specialize", "--run", "digits"], "no budget"),
        (["specialize", "--run", "nobody", "--latency-ms", "1"], "no run 'runs/nobody'; found: digits"),
        (["specialize", "--run", "digits", "--latency-ms", "1", "--export", "model.pth"], "NAME.onnx or a folder"),
        (["specialize", "--run", "digits", "--latency-ms", "0.000001"], "the fastest takes"),
        (["specialize", "--run", "digits", "--latency-ms", "1", "--tables", "nowhere"], "no latency table"),
        (["export", "--run", "digits", "--arch", "larges"], "did you mean 'largest'"),
        (["measure-accuracy", "--run", "digits", "--subnets", "0"], "at least 1"),
        (["demo", "--folder", "."], "holds work that is no demo's"),
        (["table", "--run", "digits", "--out", "table.xls"], "takes a .csv or .parquet file"),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_and_nothing_is_lost(walk, arguments, says):
    (walk.folder / "empty").mkdir(exist_ok=True)
    before = contents(walk.folder)
    refused(*arguments, cwd=walk.folder, says=says)
    assert contents(walk.folder) == before


def test_a_corrupt_image_is_named_before_training(tmp_path):
    for name in ("a", "b"):
        for i in range(4):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16)).save(path)
    (tmp_path / "photos" / "b" / "2.png").write_bytes(b"damaged")
    arguments = ["train-supernet", "--space", "mbv3-small-images", "--data", "imagefolder:photos"]
    refused(*arguments, cwd=tmp_path, says="2.png' is not a readable image")
    assert not (tmp_path / "runs").exists()


def test_resume_with_other_classes_is_refused(walk, tmp_path):
    for name in ("a", "b", "c"):
        for i in range(4):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16)).save(path)
    before = contents(walk.folder)
    arguments = ["train-supernet", "--run", "digits", "--resume", "--data", f"imagefolder:{tmp_path / 'photos'}"]
    refused(*arguments, cwd=walk.folder, says="has 10 classes and 1 channels")
    refused(
        "train-supernet",
        "--run",
        "digits",
        "--resume",
        "--epochs",
        "99",
        cwd=walk.folder,
        says="was begun with epochs=",
    )
    refused("train-supernet", "--recipe", "digits", cwd=walk.folder, says="exists; go on with --resume")
    assert contents(walk.folder) == before


def test_a_table_of_another_space_is_refused(walk, tmp_path):
    shutil.copytree(walk.folder / "latency_tables", tmp_path / "latency_tables")
    path = next((tmp_path / "latency_tables").glob("*/*/mbv3-tiny.json"))
    path.write_text(path.read_text().replace('"space_fingerprint": "', '"space_fingerprint": "0'))
    arguments = ["specialize", "--run", str(walk.folder / "runs" / "digits"), "--latency-ms", "1"]
    refused(*arguments, cwd=tmp_path, says="was measured for space")


def test_an_unwritable_folder_is_refused(walk):
    target = "/proc/nowhere" if Path("/proc").is_dir() else "/dev/null/nowhere"
    arguments = ["specialize", "--run", "digits", "--latency-ms", "5", "--export"]
    refused(*arguments, f"{target}/model.onnx", cwd=walk.folder, says="cannot write in folder")
    refused(
        "train-supernet", "--recipe", "digits", "--run", f"{target}/run", cwd=walk.folder, says="cannot write in folder"
    )
