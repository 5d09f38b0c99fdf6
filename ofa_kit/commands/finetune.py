"""Fine-tuning: a few epochs for one subnet alone, from its shared weights, with the largest subnet as its teacher."""

from dataclasses import asdict

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.single import only
from ofa_kit.arch.space_file import write_space
from ofa_kit.commands.specialize_top1 import TrainedSubnets
from ofa_kit.commands.train_supernet import train_supernet
from ofa_kit.errors import OfaKitError
from ofa_kit.progress import Reporter, Silent
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training import checkpoint
from ofa_kit.training.run import Run

SHARE = 0.1
"""Learning rate as a share of the supernet's."""
KEPT = (
    "data", "batch_size", "accumulate", "optimizer", "momentum", "weight_decay", "label_smoothing", "clip_grad_value",
    "clip_grad_norm", "seed", "calibration_images", "validation_images", "workers", "accelerator", "precision",
)  # fmt: skip
"""What is as in the supernet's recipe."""


def finetune(
    trained: TrainedSubnets, arch: ArchConfig, epochs: int, *, reporter: Reporter | None = None
) -> tuple[Subnet, float, str]:
    """Return the fine-tuned subnet, its validation top-1 in percent and the hash of its weights.

    It is a run of its own, in RUN/finetuned: what a kill interrupted goes on, what is finished is not repeated.
    """
    if epochs < 1:
        raise OfaKitError(f"--finetune-epochs must be at least 1, found {epochs}")
    run = trained.run
    folder = run.folder / "finetuned" / f"{arch.key}-{trained.weights_hash[:8]}-{epochs}"
    if not (folder / "config.yaml").exists():
        write_space(folder / "begin.yaml", only(run.space, arch))
        checkpoint.save(folder / "begin.safetensors", trained.network(arch).state_dict(), {"arch": arch.key})
    recipe = {name: value for name, value in asdict(run.recipe).items() if name in KEPT} | {
        "space": str(folder / "begin.yaml"),
        "method": "single-path",
        "epochs": epochs,
        "lr": SHARE * run.recipe.lr,
        "warmup_epochs": 0,
        "eval_every": epochs,
        "init_from": str(folder / "begin.safetensors"),
        "teacher": str(run.folder),
    }
    resume = (folder / "checkpoints" / "last.safetensors").exists()
    tuned: Run = train_supernet({} if resume else recipe, folder, source=f"{run.name}", resume=resume,
                                reporter=reporter or Silent())  # fmt: skip
    supernet, weights_hash = tuned.load_supernet()
    alone = trained.evaluator.recalibrated(supernet, tuned.space.largest())
    subnet = Subnet(run.space, arch)
    subnet.load_state_dict(alone.state_dict())
    subnet.eval()
    return subnet, trained.evaluator.validation_top1(subnet), weights_hash
