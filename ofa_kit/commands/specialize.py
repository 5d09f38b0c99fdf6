"""specialize: the best subnet of a run for one device or several and a budget: predicted, measured, exported.

Search proposes on predictions; the proposals are recalibrated, validated, exported and timed on the devices; of those
whose measured times fit, the one with the best measured top-1 wins. On a device that is not here, predictions with
their error bars stand for times.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.commands.deploy import Deployment, deploy
from ofa_kit.commands.deploy_conversion import Conversion
from ofa_kit.commands.finetune import finetune
from ofa_kit.commands.profile import TABLES
from ofa_kit.commands.specialize_site import Safety, Site
from ofa_kit.commands.specialize_top1 import TrainedSubnets
from ofa_kit.errors import BackendError, InfeasibleBudgetError, UnknownNameError
from ofa_kit.export.onnx_export import export
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.algorithms import ALGORITHMS, DEFAULT, Algorithm
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training.run import Run

CANDIDATES = 6
"""Proposals measured in one round, and known good subnets measured beside them."""
KNOWN = 2
ROUNDS = 4
CLOSER, INSIDE = 0.97, 0.99
"""By which share at least the predicted budget shrinks where no proposal fits, and where the next ones should lie."""


@dataclass(frozen=True)
class Judged:
    """A proposal after it was measured."""

    subnet: Subnet
    top1: float
    """Of validation images, in percent."""
    weights_hash: str

    @property
    def arch(self) -> ArchConfig:
        return self.subnet.arch


class Specializer:
    """One run on one device or several; what is measured for one budget serves the next."""

    def __init__(self, trained: TrainedSubnets, sites: Sequence[Site], *, reporter: Reporter | None = None) -> None:
        self.trained, self.sites, self.reporter = trained, sites, reporter or Silent()
        self.space = trained.run.space

    @classmethod
    def open(
        cls, run: Run, *devices: DeviceProfile, tables: Path = TABLES, reporter: Reporter | None = None
    ) -> "Specializer":
        """Open a run and the tables of devices; the first one decides precision and form of what is exported."""
        sites = [Site(device, run.space, tables) for device in devices]
        return cls(TrainedSubnets(run), sites, reporter=reporter)

    def specialize(
        self,
        budget: Budget,
        target: Path,
        *,
        algorithm: Algorithm = DEFAULT,
        seed: int = 0,
        safety: Safety | None = None,
        dynamic_batch: bool = False,
        conversion: Conversion | None = None,
        finetune_epochs: int = 0,
    ) -> Deployment:
        """Find, measure and export the best subnet within `budget`; InfeasibleBudgetError when none fits.

        The budget's latency is that of the first device, `other_latencies_ms` are those of the others by name. After
        `finetune_epochs` of training on its own the subnet is exported as it was where that was better.
        """
        safety, rng = safety or Safety(), np.random.default_rng(seed)
        asked, least = self._predicted(budget, safety), math.inf
        for _ in range(ROUNDS):
            try:
                proposals = self._proposals(asked, algorithm, rng)
            except InfeasibleBudgetError:
                if least < math.inf:
                    break
                raise
            found = self._judge(proposals)
            best = self._best(found, budget, safety)
            if best:
                best = self._tuned(best, finetune_epochs) if finetune_epochs else best
                return self._deploy(best, str(budget), target, dynamic_batch, conversion)
            asked, least = self._narrowed(asked, budget, safety, found)
        raise InfeasibleBudgetError(
            f"no subnet of '{self.space.name}' was measured within {budget} on {self._places()} in up to {ROUNDS} "
            f"rounds; the nearest took {least:.3f} times as long (measured); raise the budget"
            + (" or lower --min-top1" if budget.min_top1 is not None else "")
        )

    def export(
        self, arch: ArchConfig, target: Path, *, dynamic_batch: bool = False, conversion: Conversion | None = None
    ) -> Deployment:
        """Measure and export one given subnet, whatever it costs."""
        return self._deploy(self._judge([arch])[0], "", target, dynamic_batch, conversion)

    def arch_named(self, name: str) -> ArchConfig:
        """Return the subnet that `largest`, `smallest` or a table key names."""
        known = {key: arch for site in self.sites for key, (arch, _) in site.table.subnets.items()}
        known |= {key: arch for key, (arch, _) in self.trained.table.rows.items()}
        named = {"largest": self.space.largest(), "smallest": self.space.smallest(), **known}
        if name not in named:
            raise UnknownNameError("arch", name, ["largest", "smallest", "the keys that `ofa-kit table` shows"])
        return named[name]

    def objective(self, budget: Budget) -> Objective:
        """Return what searches raise under a predicted budget."""
        first, *others = self.sites
        return Objective(
            self.space,
            budget,
            self.trained.predictor.predict_top1,
            first.predictor.predict_ms,
            {site.device.name: site.predictor.predict_ms for site in others},
        )

    def limits_ms(self, budget: Budget) -> list[float]:
        """Return the latency budget of each device."""
        others = self.sites[1:]
        return [budget.latency_ms, *(budget.other_latencies_ms.get(site.device.name, math.inf) for site in others)]

    def _predicted(self, budget: Budget, safety: Safety) -> Budget:
        """Return the budget in the terms of predictors: floors, without the headroom."""
        limits = [
            safety.usable(limit_ms) / site.time_per_floor(safety)
            for site, limit_ms in zip(self.sites, self.limits_ms(budget), strict=True)
        ]
        return self._with_limits(budget, limits)

    def _with_limits(self, budget: Budget, limits_ms: Sequence[float]) -> Budget:
        first, *others = limits_ms
        names = [site.device.name for site in self.sites[1:]]
        return replace(budget, latency_ms=first, other_latencies_ms=dict(zip(names, others, strict=True)))

    def _proposals(self, budget: Budget, algorithm: Algorithm, rng: np.random.Generator) -> list[ArchConfig]:
        """Return the best by prediction and the best whose top-1 is known, all within the predicted budget."""
        objective = self.objective(budget)
        archs = [found.arch for found in ALGORITHMS[algorithm].search(objective, rng, top=CANDIDATES)]
        known = self.trained.best_measured()
        inside = objective.excess(np.stack([self.space.encode(arch) for arch in known])) <= 0
        archs += [arch for arch, fits in zip(known, inside, strict=True) if fits][:KNOWN]
        return list({arch.key: arch for arch in archs}.values())

    def _judge(self, archs: Sequence[ArchConfig]) -> list[Judged]:
        """Recalibrate, validate and time each proposal; every measurement is a row that stays."""
        with self.reporter.task("candidates", len(archs) + len(self.sites)) as advance:
            for done, arch in enumerate(archs, start=1):
                advance(done, f"top-1 {self.trained.top1(arch):.2f} % (measured)")
            for done, site in enumerate(self.sites, start=len(archs) + 1):
                site.time({arch: self._model(arch, site) for arch in site.untimed(archs)})
                advance(done, f"timed on {site.device.name}" if site.is_here else f"{site.device.name} is not here")
        for site in self.sites:
            if site.is_here and not any(site.measured(arch) for arch in archs):
                reason = next(site.table.failed[arch.key] for arch in archs if arch.key in site.table.failed)
                raise BackendError(f"{site.device.name} runs no proposal: {reason}")
        trained = self.trained
        return [Judged(trained.network(arch), trained.top1(arch), trained.weights_hash) for arch in archs]

    def _model(self, arch: ArchConfig, site: Site) -> bytes:
        model: bytes = export(self.trained.network(arch), batch=site.device.batch).SerializeToString()
        return model

    def _tuned(self, best: Judged, epochs: int) -> Judged:
        """Return the better of a subnet and what fine-tuning makes of it."""
        tuned = Judged(*finetune(self.trained, best.arch, epochs, reporter=self.reporter))
        kept = "kept" if tuned.top1 > best.top1 else "not kept"
        self.reporter.say(
            f"fine-tuned for {epochs} epochs: top-1 {tuned.top1:.2f} %, before {best.top1:.2f} % (measured); {kept}"
        )
        return tuned if tuned.top1 > best.top1 else best

    def _best(self, found: Sequence[Judged], budget: Budget, safety: Safety) -> Judged | None:
        """Return the most accurate that fits or, with `min_top1`, the fastest that is accurate enough."""
        fitting = [judged for judged in found if self._over(judged.arch, budget, safety) <= 1]
        if budget.min_top1 is None:
            return max(fitting, key=lambda judged: judged.top1, default=None)
        accurate = [judged for judged in fitting if judged.top1 >= budget.min_top1]
        return min(accurate, key=lambda judged: self.sites[0].time_ms(judged.arch, safety), default=None)

    def _over(self, arch: ArchConfig, budget: Budget, safety: Safety) -> float:
        """Return what a subnet takes as times of what it may take, on the device where that is most."""
        return max(
            site.time_ms(arch, safety) / safety.usable(limit_ms)
            for site, limit_ms in zip(self.sites, self.limits_ms(budget), strict=True)
        )

    def _narrowed(self, asked: Budget, budget: Budget, safety: Safety, found: Sequence[Judged]) -> tuple[Budget, float]:
        """Return the budget to search next, and how far over the budget the nearest proposal was."""
        least = min(self._over(judged.arch, budget, safety) for judged in found)
        if budget.min_top1 is not None and least <= 1:
            top1 = max(judged.top1 for judged in found if self._over(judged.arch, budget, safety) <= 1)
            self.reporter.say(f"none that fits has {budget.min_top1:g} %: the best {top1:.2f} % (measured)")
            short = budget.min_top1 - top1
            return replace(asked, min_top1=min(100.0, (asked.min_top1 or 0.0) + max(short, 0.1))), least
        self.reporter.say(f"no proposal fits {budget}: the nearest took {least:.3f} times as long; searching lower")
        share = min(CLOSER, INSIDE / least)
        return self._with_limits(asked, [limit_ms * share for limit_ms in self.limits_ms(asked)]), least

    def _deploy(
        self, best: Judged, budget: str, target: Path, dynamic_batch: bool, conversion: Conversion | None
    ) -> Deployment:
        first, *others = self.sites
        return deploy(
            self.trained.run,
            best.subnet,
            target,
            device=first.device,
            evaluator=self.trained.evaluator,
            weights_hash=best.weights_hash,
            validation_top1=best.top1,
            latency=first.measured(best.arch),
            predicted={
                "latency_ms": round(first.predicted_unseen_ms(best.arch), 4),
                "top1": round(self.trained.predicted_unseen(best.arch), 3),
            },
            budget=budget,
            table_hash=first.table_hash,
            dynamic_batch=dynamic_batch,
            conversion=conversion,
            other_devices={site.device.name: self._times(site, best.arch) for site in others},
        )

    def _times(self, site: Site, arch: ArchConfig) -> dict[str, float]:
        """Return what is known of a subnet on a further device."""
        found = {"latency_ms_predicted": round(site.predicted_unseen_ms(arch), 4)}
        if measured := site.measured(arch):
            found["latency_ms_measured"] = round(measured.latency_ms, 4)
        return found

    def _places(self) -> str:
        return " and ".join(site.device.name for site in self.sites)
