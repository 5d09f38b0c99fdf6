"""search nas-rl of convolutional networks: search, train the best child again, export, prove, draw and time it."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.cells_found import RESULT, alone, can_draw, open_times
from ofa_kit.commands.proven_export import ProvenNetwork, save_proven
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import InfeasibleBudgetError
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.nas_rl.children import Child, Children
from ofa_kit.nas.nas_rl.conv_net import ChildShape, ConvNet
from ofa_kit.nas.nas_rl.engine import Engine
from ofa_kit.nas.nas_rl.network import ConvChild
from ofa_kit.nas.nas_rl.onnx import child_bytes, child_model
from ofa_kit.nas.nas_rl.picture import save_picture
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.search import Latencies, Round, Search
from ofa_kit.nas.nas_rl.text import read_conv_net, write_conv_net
from ofa_kit.nas.nas_rl.training import ChildData, ChildTrainer, ConvTraining
from ofa_kit.nas.run import WorkFolder
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter
from ofa_kit.training.distributed import leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "search nas-rl"
NETWORK = "network.txt"


@dataclass(frozen=True, kw_only=True)
class ConvFound(ProvenNetwork):
    """The best child of a search, trained again; its validation top-1 is that of the best epoch."""

    net: ConvNet
    child: int
    """Its number."""
    children: int
    failed: int
    child_top1: float
    """Percent of the held-out images, as a child: the best of many, so somewhat optimistic."""
    reward: float

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        found = asdict(replace(self, folder=Path()))
        return {**found, "network": write_conv_net(self.net), "model": str(self.model), "folder": str(self.folder)}

    def lines(self) -> list[str]:
        """Return the same for a person to read."""
        return [
            f"network   {write_conv_net(self.net)}",
            f"child     {self.child} of {self.children} ({self.failed} failed): {self.child_top1:.2f} % validation "
            f"(measured), reward {self.reward:.4f}",
            *self.measured_lines(),
            f"files     {self.folder}: children.csv, controller.csv, network.txt, picture, metrics.csv",
        ]


def search_cnn(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str,
    resume: bool,
    open_engine: Callable[..., Engine],
    reporter: Reporter,
) -> ConvFound:
    """Search a network and train it; see `search_nas_rl`."""
    work, dataset = WorkFolder[NasRlRecipe].prepared(
        values, folder, NasRlRecipe.parse, _open, source=source, resume=resume, command=COMMAND
    )
    if (folder / RESULT).exists():
        reporter.say(f"search '{folder}' is finished already")
        return _read(folder)
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    data = ChildData.of(dataset, work.recipe)
    try:
        times = open_times(folder, work.recipe.device) if work.recipe.device else None
        trainer = ChildTrainer(work.recipe, data, team.device.type)
        children = _search(work, trainer, open_engine, times, reporter)
        best = _best(children, work.recipe)
        training = ConvTraining(work.recipe, best.net, data, folder, team.device, final=True)
        _train_again(work, best, training, reporter)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit {COMMAND} --run {folder} --resume`")
        raise
    finally:
        leave()
    return _finished(work, children, best, training, dataset, times, reporter)


def measured_latencies(times: Times, shape: ChildShape, reporter: Reporter) -> Latencies:
    """Return what measures networks on a device, as far as the file of times lacks them."""

    def measure(nets: Sequence[ConvNet]) -> dict[str, float]:
        batch = times.backend.profile.batch
        times.measure({child_name(net, shape): _model(net, shape, batch) for net in nets}, reporter)
        return {net.key: times.of(child_name(net, shape)).latency_ms for net in nets}

    return measure


def child_name(net: ConvNet, shape: ChildShape) -> str:
    """Return the name under which the time of a network is kept."""
    return f"{shape.in_channels}x{shape.image_size} px, {shape.num_classes} classes, {write_conv_net(net)}"


def _open(recipe: NasRlRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _model(net: ConvNet, shape: ChildShape, batch: int) -> Callable[[], bytes]:
    return lambda: child_bytes(ConvChild.fresh(net, shape, seed=0), batch)


def _search(
    work: WorkFolder[NasRlRecipe],
    trainer: ChildTrainer,
    open_engine: Callable[..., Engine],
    times: Times | None,
    reporter: Reporter,
) -> Children:
    recipe, shape = work.recipe, work.recipe.shape(work.info)
    latencies = measured_latencies(times, shape, reporter) if times else None
    search = Search(recipe, shape, work.folder, work.checkpoint, latencies)
    if search.round == search.rounds:
        return search.children
    reporter.say(
        f"searching networks of {recipe.layers} layers and more ({recipe.space.size(recipe.layers):.3g} to choose of) "
        f"by NAS-RL: {recipe.children} children of {recipe.epochs} epochs on {len(trainer.data.train.labels)} images "
        f"of {recipe.data}, {trainer.device}"
    )
    gpu = trainer.device == "cuda"
    with (
        closing(open_engine(trainer, memory_mb=recipe.memory_mb, gpu=gpu)) as engine,
        reporter.task("children", recipe.children) as advance,
    ):

        def watch_child(child: Child) -> None:
            note = child.error or ("too slow" if child.top1 is None else f"top-1 {child.top1:.2f} % (measured)")
            advance(len(search.children.all), note)

        def watch(found: Round) -> None:
            failed = sum(bool(child.error) for child in found.children)
            reporter.say(
                f"round {found.number} of {search.rounds}: {found.layers} layers, mean reward "
                f"{found.learned.reward:.4f}, entropy {found.learned.entropy:.2f} nats"
                + (f", {failed} failed" if failed else "")
            )

        search.run(engine, watch=watch, watch_child=watch_child)
    return search.children


def _best(children: Children, recipe: NasRlRecipe) -> Child:
    """Return the best child; an InfeasibleBudgetError where every one was too slow."""
    best = children.best()
    if best is not None:
        return best
    fastest = min((child.latency_ms for child in children.all.values() if child.latency_ms), default=float("nan"))
    raise InfeasibleBudgetError(
        f"none of {len(children.all)} children runs in {recipe.latency_target_ms} ms on {recipe.device} and was "
        f"trained; the fastest takes {fastest:.4f} ms (measured). Raise --latency-ms or offer smaller filters"
    )


def _train_again(work: WorkFolder[NasRlRecipe], best: Child, training: ConvTraining, reporter: Reporter) -> None:
    reporter.say(f"training child {best.number} again for {training.epochs} epochs: {best.text}")
    with reporter.task("train", training.epochs * training.steps_per_epoch) as advance:

        def watch(seen: Seen) -> None:
            advance(seen.done_steps, f"loss {seen.losses['loss']:.3f}")

        file = work.checkpoint.with_name("final.safetensors")
        work_through(training, file, checkpoint_s=work.recipe.checkpoint_s, watch=watch)


def _finished(
    work: WorkFolder[NasRlRecipe],
    children: Children,
    best: Child,
    training: ConvTraining,
    dataset: Dataset,
    times: Times | None,
    reporter: Reporter,
) -> ConvFound:
    """Export the trained network, time and draw it, and write all down."""
    folder, network = work.folder, training.best_network()
    facts = {"network": best.text}
    model = child_model(network, batch=None)
    proof = save_proven(network, model, network.state_dict(), dataset, folder, facts)
    latency = None
    if times is not None:
        measured_latencies(times, network.shape, reporter)([best.net])
        latency = times.of(child_name(best.net, network.shape))
    assert best.top1 is not None
    found = ConvFound(
        folder=folder,
        net=best.net,
        child=best.number,
        children=len(children.all),
        failed=sum(bool(child.error) for child in children.all.values()),
        child_top1=best.top1,
        reward=best.reward,
        params=best.params,
        macs=best.macs,
        validation_top1=training.best_top1,
        test_top1=proof.top1_pytorch,
        test_top1_onnx=proof.top1_onnx,
        test_images=proof.images,
        max_relative_difference=proof.max_relative_difference,
        latency=latency,
    )
    if can_draw(reporter):
        save_picture(best.net, folder)
    storage.write_text(folder / NETWORK, best.text + "\n")
    kept = {key: value for key, value in found.facts().items() if key not in ("folder", "model", "net")}
    storage.write_text(folder / RESULT, json.dumps(kept, indent=2) + "\n")
    return found


def _read(folder: Path) -> ConvFound:
    """Return what a finished search wrote."""
    found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    timed, net = found.pop("latency"), read_conv_net(found.pop("network"))
    return ConvFound(folder=folder, net=net, latency=Measurement(**timed) if timed else None, **found)
