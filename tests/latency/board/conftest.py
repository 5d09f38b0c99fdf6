import pytest

from ofa_kit.latency.board.bundle import write_bundle
from tests.latency.board.kits import BLOCKS, DEVICE, PLAN, RESOLUTIONS, SPACE, SUBNETS, run, unpacked


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("kit") / "kit.zip"
    assert write_bundle(path, DEVICE, SPACE, SUBNETS, RESOLUTIONS, PLAN).blocks == len(BLOCKS)
    return path


@pytest.fixture
def kit(archive, tmp_path):
    return unpacked(archive, tmp_path / "kit")


@pytest.fixture(scope="session")
def measured(archive, tmp_path_factory):
    """The results of one whole run."""
    kit = unpacked(archive, tmp_path_factory.mktemp("board") / "kit")
    done = run(kit)
    assert done.code == 0, done.err
    assert "refused" not in done.err
    assert done.out.strip() == str(kit / "results")
    return kit / "results"
