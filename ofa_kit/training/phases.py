"""Phases: a recipe as a sequence of (rule, epochs, rate). Sandwich and single-path have one, shrinking has six."""

from dataclasses import dataclass, replace

from ofa_kit.arch.space import SearchSpace
from ofa_kit.training.recipe import PhaseRecipe, Recipe
from ofa_kit.training.rules import Rule, Sandwich, Shrinking, SinglePath, StrictlyFair, Target

OFA_SHARES = {"largest": 0.25, "kernel": 0.25, "depth-1": 0.1, "depth-2": 0.15, "expand-1": 0.1, "expand-2": 0.15}
"""Shares of the epochs; OFA's own are 180, 120, 25, 120, 25, 120 epochs (Cai et al. 2020, appendix)."""
SHORT_PHASE_LR, LONG_PHASE_LR = 1 / 12, 1 / 4
"""Rates of the depth and expand phases relative to the kernel phase: 2.5e-3 and 7.5e-3 to 3e-2."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own optimizer."""

    name: str
    rule: Rule
    epochs: int
    lr: float
    warmup_epochs: int
    teacher: bool = False
    """Learns from a network that is trained already: that of the first phase, or of the run that the recipe names."""
    sort_before: SearchSpace | None = None
    """Channels are sorted before the phase starts; the subnets of this space stay what they are."""


def phases_of(recipe: Recipe, space: SearchSpace) -> list[Phase]:
    """Return the phases of a recipe on its (adapted) space."""
    if recipe.method == "sandwich":
        rule: Rule = Sandwich(space, recipe.num_random, recipe.preference, recipe.num_candidates)
        return [Phase("sandwich", rule, recipe.epochs, recipe.lr, recipe.warmup_epochs)]
    if recipe.method == "single-path":
        target: Target = "teacher" if recipe.teacher else "labels"
        rule = StrictlyFair(space, target) if recipe.strict_fairness else SinglePath(space, target)
        return [
            Phase("single-path", rule, recipe.epochs, recipe.lr, recipe.warmup_epochs, teacher=bool(recipe.teacher))
        ]
    phases, trained = [], _restricted(space, PhaseRecipe(name="largest", epochs=1, lr=1))
    for index, settings in enumerate(recipe.phases or ofa_phases(recipe, space)):
        allowed = _restricted(space, settings)
        phases.append(
            Phase(
                settings.name,
                Shrinking(allowed, settings.subnets, "labels" if index == 0 else "teacher"),
                settings.epochs,
                settings.lr,
                settings.warmup_epochs,
                teacher=index > 0,
                sort_before=trained if settings.sort_channels else None,
            )
        )
        trained = allowed
    return phases


def ofa_phases(recipe: Recipe, space: SearchSpace) -> tuple[PhaseRecipe, ...]:
    """Return OFA's phases for a short training: rates in the paper's proportions, at least one epoch each."""
    kernels, depths, expands = (
        max((len(gene.choices) for gene in space.genes if gene.kind == kind), default=1)
        for kind in ("kernel_size", "depth", "expand_ratio")
    )
    choices = {
        "largest": (1, 1, 1, 1, 1.0),
        "kernel": (kernels, 1, 1, 1, 1.0),
        "depth-1": (kernels, min(2, depths), 1, 2, SHORT_PHASE_LR),
        "depth-2": (kernels, depths, 1, 2, LONG_PHASE_LR),
        "expand-1": (kernels, depths, min(2, expands), 4, SHORT_PHASE_LR),
        "expand-2": (kernels, depths, expands, 4, LONG_PHASE_LR),
    }
    found: list[PhaseRecipe] = []
    opened, waiting = (0, 0, 0), 0.0
    for name, share in OFA_SHARES.items():
        kernel_sizes, depth_count, expand_ratios, subnets, rate = choices[name]
        waiting += share
        if (kernel_sizes, depth_count, expand_ratios) == opened:
            continue  # the space has no such choice: the phase's share goes to the next one
        opened = (kernel_sizes, depth_count, expand_ratios)
        found.append(
            PhaseRecipe(
                name=name,
                epochs=max(1, round(waiting * recipe.epochs)),
                lr=recipe.lr * rate,
                kernel_sizes=kernel_sizes,
                depths=depth_count,
                expand_ratios=expand_ratios,
                widths=None if name.startswith("expand") else 1,
                subnets=subnets,
                warmup_epochs=recipe.warmup_epochs if name in ("largest", "kernel") else 0,
                sort_channels=name.startswith("expand"),
            )
        )
        waiting = 0.0
    if waiting:  # the last phases open nothing: the one before them goes on
        found[-1] = replace(found[-1], epochs=found[-1].epochs + round(waiting * recipe.epochs))
    return tuple(found)


def _restricted(space: SearchSpace, settings: PhaseRecipe) -> SearchSpace:
    return space.restricted(
        kernel_sizes=settings.kernel_sizes,
        depths=settings.depths,
        expand_ratios=settings.expand_ratios,
        widths=settings.widths,
    )
