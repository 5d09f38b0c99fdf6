"""Is there any subnet within the budget? A search for the least excess before a budget is refused."""

import numpy as np

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.errors import InfeasibleBudgetError
from ofa_kit.search.budget import Objective
from ofa_kit.search.climbing import climb

SAMPLES, STARTS = 256, 3


def require_feasible(objective: Objective) -> Genomes:
    """Return genomes within budget, shape (N >= 1, length), the smallest subnets if they are.

    Those are only a guess: where none of them fits, steepest descent of the excess from the nearest of them and of some
    random subnets decides, by single changes and by pairs, before an InfeasibleBudgetError says what the fastest takes.
    """
    starts = extremes(objective)
    inside = objective.score(starts) >= 0
    if inside.any():
        return starts[inside]
    samples = objective.space.sample_genomes(SAMPLES, np.random.default_rng(0))
    tried = np.vstack([starts, samples])
    score = objective.score(tried)
    best = tried[np.argsort(-score, kind="stable")[:STARTS]]
    several = len(objective.limits) + (objective.budget.min_top1 is not None) > 1
    for pairs in (False, True)[: 1 + several]:
        for start in best:
            end = climb(objective, start, pairs=pairs, enough=0.0)[-1:]
            if objective.score(end)[0] >= 0:
                return end
            tried = np.vstack([tried, end])
    raise InfeasibleBudgetError(refusal(objective, tried))


def extremes(objective: Objective) -> Genomes:
    """Return the smallest subnet at each resolution, and the largest where accuracy is asked for: (R, length)."""
    space = objective.space
    ends = [space.smallest()] + [space.largest()] * (objective.budget.min_top1 is not None)
    genomes = np.repeat([space.encode(arch) for arch in ends], len(space.resolutions), axis=0)
    genomes[:, 0] = np.tile(np.arange(len(space.resolutions)), len(ends))
    return genomes


def refusal(objective: Objective, tried: Genomes) -> str:
    """Return what to say of a budget that none of the genomes meets."""
    space, budget = objective.space, objective.budget
    latency = objective.predict_latency_ms(tried)
    fastest = int(np.argmin(latency))
    said = [
        f"no subnet of '{space.name}' meets {budget}; the fastest takes {latency[fastest]:.3f} ms (predicted) with "
        f"{macs_of(space, tried[[fastest]])[0] / 1e6:.2f} M MACs"
    ]
    said += [f"{limit.name} can be {limit.cost_of(tried).min():.4g} at least" for limit in objective.limits[1:]]
    inside = objective.excess(tried) == 0
    if budget.min_top1 is not None and inside.any():
        best = objective.predict_top1(tried[inside]).max()
        said.append(f"the most accurate within the limits has {best:.2f} % (predicted)")
        return "; ".join(said) + "; lower --min-top1, raise the budget or train a space with larger choices"
    return "; ".join(said) + "; raise the budget or train a space with smaller choices"
