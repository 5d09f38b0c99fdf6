"""Deploy a network that no latency table speaks of: timed here and now, nothing of it predicted."""

from pathlib import Path

from ofa_kit.commands.deploy import Deployment, deploy
from ofa_kit.commands.deploy_conversion import Conversion
from ofa_kit.commands.profile import measure_in_sessions
from ofa_kit.errors import BackendError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run


def deploy_timed(
    run: Run,
    subnet: Subnet,
    target: Path,
    *,
    device: DeviceProfile,
    evaluator: Evaluator,
    weights_hash: str,
    validation_top1: float,
    budget: str = "",
    dynamic_batch: bool = False,
    conversion: Conversion | None = None,
) -> Deployment:
    """Time a subnet on `device` as a profile does, verify its ONNX on the test set and write both down.

    A BackendError when the device is not here or refuses the network.
    """
    times, failed, _ = measure_in_sessions(subnet.space, backend_for(device), [subnet.arch])
    if subnet.arch.key in failed:
        raise BackendError(f"{device.name} does not run {subnet.arch}: {failed[subnet.arch.key]}")
    return deploy(
        run,
        subnet,
        target,
        device=device,
        evaluator=evaluator,
        weights_hash=weights_hash,
        validation_top1=validation_top1,
        latency=times[subnet.arch],
        predicted={},
        budget=budget,
        dynamic_batch=dynamic_batch,
        conversion=conversion,
    )
