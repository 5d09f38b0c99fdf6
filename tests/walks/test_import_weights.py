"""MIT's weights through the command line: a run from a checkpoint and back, a static network as ONNX."""

import json
from pathlib import Path

import pytest
import torch

from ofa_kit.arch.ofa_net_config import net_config
from ofa_kit.arch.presets import preset
from ofa_kit.cli.weights import import_weights
from ofa_kit.commands.measure_accuracy import measure_accuracy
from ofa_kit.errors import OfaKitError
from ofa_kit.supernet.mit_weights import mit_state, read_weights, save_weights
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.run import Run
from tests.conftest import ofa_kit_forked

SPACE = preset("ofa-mbv3-w1.0").adapted(in_channels=3, num_classes=10)


@pytest.fixture(scope="module")
def supernet():
    return Supernet(SPACE).eval()


@pytest.fixture(scope="module")
def imported(supernet, tmp_path_factory):
    """A folder in which a checkpoint became the run `mit`."""
    folder = tmp_path_factory.mktemp("imported")
    save_weights(supernet, folder / "mit.pth")
    done = ofa_kit_forked("import-weights", "mit.pth", "--space", "ofa-mbv3-w1.0", "--run", "mit", cwd=folder)
    assert done.code == 0, done.err
    assert "ofa-kit profile --device cpu-ort --run mit --no-accuracy" in done.out
    return folder


def test_a_run_from_a_checkpoint_gives_the_checkpoint_back(imported, supernet):
    run = Run.open(imported / "runs" / "mit")
    assert run.space == SPACE
    loaded, _ = run.load_supernet()
    assert all(torch.equal(t, loaded.state_dict()[key]) for key, t in supernet.state_dict().items())
    done = ofa_kit_forked("export-weights", "--run", "mit", "--out", "back.pth", cwd=imported)
    assert done.code == 0, done.err
    back, first = read_weights(imported / "back.pth"), read_weights(imported / "mit.pth")
    assert all(torch.equal(tensor, first[key]) for key, tensor in back.items())


def test_accuracy_without_data_is_refused_with_what_is_missing(imported):
    with pytest.raises(OfaKitError, match=r"imported without data.*import it again with --data"):
        measure_accuracy(Run.open(imported / "runs" / "mit"), 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"space": "ofa-mbv3-w1.0", "run": "mit"}, "exists"),
        ({"space": "mbv3-tiny", "run": "new"}, "no space 'mbv3-tiny'"),
        ({"space": "ofa-mbv3-w1.0", "run": "new", "data": "digits"}, "10 classes and 3 channels, the data 'digits'"),
        ({"space": "ofa-mbv3-w1.2", "run": "new"}, "of another shape"),
        ({"run": "new"}, "a supernet needs --space and --run"),
        ({"net_config": Path("x"), "resolution": 128}, "needs --net-config, --resolution and --export"),
        ({"net_config": Path("x"), "resolution": 128, "export": Path("x.onnx")}, "cannot read 'x'"),
        ({"net_config": Path("x"), "resolution": 8, "export": Path("x.onnx")}, "--resolution must be at least 32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_imported_is_refused_and_leaves_no_run(options, says, imported, monkeypatch):
    monkeypatch.chdir(imported)
    with pytest.raises(OfaKitError) as refused:
        import_weights(Path("mit.pth"), **options)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (imported / "runs" / "new").exists()


def test_profiling_with_accuracy_says_what_is_missing_before_it_starts(imported):
    done = ofa_kit_forked("profile", "--device", "cpu-ort", "--run", "mit", cwd=imported)
    assert done.code == 2
    assert "imported without data" in done.err
    assert not (imported / "latency_tables").exists()


def test_a_static_network_becomes_verified_onnx(supernet, tmp_path, rng):
    subnet = extract(supernet, SPACE.sample(rng))
    torch.save({"state_dict": mit_state(subnet)}, tmp_path / "init")
    (tmp_path / "net.config").write_text(json.dumps(net_config(SPACE, subnet.arch)))
    options = ["--net-config", "net.config", "--resolution", "128", "--export", "static.onnx", "--json"]
    done = ofa_kit_forked("import-weights", "init", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert values["max_relative_difference"] <= 1e-4
    assert (tmp_path / "static.onnx").exists()
