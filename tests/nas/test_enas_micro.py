"""ENAS's micro space: the child is the network of the cells in the call, and the controller decides such cells."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ofa_kit.nas.cells.arc import micro_cell, write_arc
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.latency import CellLatency, InputPlace
from ofa_kit.nas.cells.measured import line
from ofa_kit.nas.cells.network import CellNetwork, CellNetworkShape
from ofa_kit.nas.cells.plan import places
from ofa_kit.nas.cells.presets import PRESETS
from ofa_kit.nas.enas.micro_child import MicroChild
from ofa_kit.nas.enas.micro_controller import MicroController, genotype_of, tokens_of
from ofa_kit.nas.reinforce.policy import Policy, PolicyRecipe

TINY = CellNetworkShape(cells=4, channels=4, in_channels=2, image_size=9, layout="enas")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def genotypes_of(tokens):
    return [genotype_of(row) for row in tokens.tolist()]


def sampled(count, nodes, seed=0):
    controller = MicroController(nodes, seeded(seed))
    return genotypes_of(controller.sample(count, seeded(seed)).tokens)


class Naive:
    """The child written down once more, without modules: from its named weights and the plan of the paper."""

    def __init__(self, child):
        self.weights = {name: tensor.detach() for name, tensor in child.named_parameters()}
        self.cells = child.shape.cells

    def norm(self, x, name):
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (self.weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def halved(self, x, name):
        """Return 1x1 convolutions of the even and of the odd pixels; an odd size ends with zeros."""
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        even = F.conv2d(x[:, :, ::2, ::2], self.weights[f"{name}.even.weight"])
        odd = F.conv2d(x[:, :, 1::2, 1::2], self.weights[f"{name}.odd.weight"])
        return self.norm(torch.cat([even, odd], 1), f"{name}.norm")

    def operation(self, x, operation, stride, name):
        if operation == "skip_connect":
            return x if stride == 1 else self.halved(x, name)
        if operation == "max_pool_3x3":
            return F.max_pool2d(x, 3, stride, 1)
        if operation == "avg_pool_3x3":
            ones = torch.ones_like(x[:1, :1])
            return F.avg_pool2d(x, 3, stride, 1) / F.avg_pool2d(ones, 3, stride, 1)
        for part in ("first", "second"):
            depthwise, pointwise = (self.weights[f"{name}.{part}.convs.{number}.weight"] for number in (0, 1))
            k = depthwise.shape[-1]
            x = F.conv2d(x.relu(), depthwise, stride=stride, padding=k // 2, groups=len(depthwise))
            x = self.norm(F.conv2d(x, pointwise), f"{name}.{part}.norm")
            stride = 1
        return x

    def fitted(self, x, name, halves):
        if halves:
            return self.halved(x.relu(), name)
        if f"{name}.convs.0.weight" in self.weights:
            return self.norm(F.conv2d(x.relu(), self.weights[f"{name}.convs.0.weight"]), f"{name}.norm")
        return x

    def logits(self, images, genotype):
        x = F.conv2d(images, self.weights["stem.0.0.weight"], padding=1)
        before = last = self.norm(x, "stem.0.1")
        for index in range(self.cells):
            reduction = index in (self.cells // 3, 2 * self.cells // 3)
            cell = genotype.reduce if reduction else genotype.normal
            name = f"cells.{index}"
            states = [
                self.fitted(before, f"{name}.inputs.0", before.shape[2] > last.shape[2]),
                self.fitted(last, f"{name}.inputs.1", False),
            ]
            for node, edges in enumerate(cell.nodes):
                total = 0
                for number, edge in enumerate(edges):
                    place = f"{name}.edges.{2 * node + number}.choices.{edge.input}.{edge.operation}"
                    stride = 2 if reduction and edge.input < 2 else 1
                    total = total + self.operation(states[edge.input], edge.operation, stride, place)
                states.append(total)
            joined = 0
            for node in cell.unused:
                weight = self.weights[f"{name}.join.slices.{node - 2}.weight"]
                joined = joined + F.conv2d(states[node].relu(), weight)
            before, last = last, self.norm(joined, f"{name}.join.norm")
        return last.relu().mean((2, 3)) @ self.weights["classifier.weight"].T


def test_the_child_computes_what_the_naive_network_of_the_same_cells_does():
    torch.manual_seed(0)
    child = MicroChild(TINY, nodes=5).double()
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(3, 2, 9, 9, dtype=torch.float64)
    for genotype in [PRESETS["enas-micro"], *sampled(12, 5)]:
        with torch.no_grad():
            found, expected = child(images, genotype), Naive(child).logits(images, genotype)
        assert torch.allclose(found, expected, atol=1e-9), write_arc(genotype)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_call_depends_on_its_arguments_alone_and_learns_what_it_uses(memory_format):
    torch.manual_seed(0)
    child = MicroChild(TINY, nodes=5, auxiliary=False).to(memory_format=memory_format)
    images = torch.randn(4, 2, 9, 9)
    first, second = sampled(2, 5)
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    once = child(images, first)
    child(images, second)
    assert torch.equal(child(images, first), once)
    assert torch.equal(child.eval()(images, first), once), "batch norm has the batch's statistics always"
    assert all(torch.equal(tensor, before[name]) for name, tensor in child.state_dict().items())
    once.logsumexp(1).sum().backward()
    used = {name for name, parameter in child.named_parameters() if parameter.grad is not None}
    for index, cell in enumerate((first.normal, first.reduce)):
        for edge, (operation, source) in enumerate(cell.pairs):
            place = f"cells.{index}.edges.{edge}.choices."
            expected = (
                {f"{source}.{operation}"}
                if "conv" in operation or (operation == "skip_connect" and index and source < 2)
                else set()
            )
            assert {
                ".".join(name.removeprefix(place).split(".")[:2]) for name in used if name.startswith(place)
            } == expected


def test_the_two_edges_of_a_node_have_weights_of_their_own():
    torch.manual_seed(0)
    child = MicroChild(TINY, nodes=1).eval()
    twice = Genotype(micro_cell([(1, 0), (1, 0)]), micro_cell([(0, 3), (1, 3)]))
    cell = child.cells[0]
    with torch.no_grad():
        for parameter in cell.edges[1].parameters():
            parameter.zero_()
    states = [torch.randn(2, 4, 9, 9) for _ in range(2)]
    edges = twice.normal.nodes[0]
    assert float(cell.edges[1](states, edges[1]).detach().abs().max()) == 0
    assert float(cell.edges[0](states, edges[0]).detach().abs().max()) > 0


def test_probabilities_of_all_cells_add_up_to_1():
    sizes = (2, 2, 5, 5) * 2
    controller = MicroController(1, seeded(1), hidden=8, bound=2.0)
    with torch.no_grad():
        found = controller.score(torch.tensor(list(itertools.product(*map(range, sizes)))))
    assert float(found.log_prob.exp().sum()) == pytest.approx(1, abs=1e-4)
    assert float(found.log_prob.exp().std()) > 1e-6, "not all cells are alike"


def test_tokens_are_cells_and_every_node_and_operation_is_drawn():
    controller = MicroController(5, seeded())
    tokens = controller.sample(300, seeded(1)).tokens
    genotypes = genotypes_of(tokens)
    assert [tokens_of(genotype) for genotype in genotypes] == tokens.tolist()
    assert genotype_of(tokens_of(PRESETS["enas-micro"])) == PRESETS["enas-micro"]
    for cell in ("normal", "reduce"):
        pairs = {pair for genotype in genotypes for pair in getattr(genotype, cell).pairs}
        assert {source for _, source in pairs} == set(range(6))
        assert len({operation for operation, _ in pairs}) == 5
        assert {len(getattr(genotype, cell).concat) for genotype in genotypes} >= {1, 2, 3, 4}


def test_a_fresh_controller_prefers_separable_convolutions_as_the_authors_code_does():
    genotypes = sampled(400, 5)
    shares = []
    for cell in ("normal", "reduce"):
        drawn = [operation for genotype in genotypes for operation, _ in getattr(genotype, cell).pairs]
        shares.append(sum(name.startswith("sep") for name in drawn) / len(drawn))
    strength = torch.tanh(torch.tensor(10 / 5)) * 1.1 / 2.5
    expected = [
        float(torch.tensor([logit] * 2 + [low] * 3).softmax(0)[:2].sum())
        for logit, low in ((strength + 0.25, -0.25), (strength, 0.0))
    ]
    assert shares == pytest.approx(expected, abs=0.03)


def test_the_controller_learns_which_node_and_operation_earn():
    def reward(genotype):
        return sum(pair == ("max_pool_3x3", 0) for pair in genotype.reduce.pairs) / 2

    controller = MicroController(1, seeded())
    policy = Policy(controller, PolicyRecipe(lr=0.05, beta1=0.0, baseline_decay=0.8))
    generator = seeded(2)
    earned = []
    for _ in range(80):
        tokens = policy.sample(20, generator).tokens
        earned.append(policy.update(tokens, [reward(g) for g in genotypes_of(tokens)]).reward)
    preferred = torch.tanh(torch.tensor(10 / 5)) * 1.1 / 2.5
    start = 0.5 * float(torch.tensor([preferred] * 2 + [0.0] * 3).softmax(0)[3])
    most = float(torch.tensor([1.1, -1.1]).softmax(0)[0] * torch.tensor([0.44] + [-0.44] * 4).softmax(0)[0])
    assert sum(earned[:5]) / 5 == pytest.approx(start, abs=0.06)
    assert 2 * start < sum(earned[-20:]) / 20 < most + 0.05, "squashed logits let no choice die out"


def test_the_latency_of_joined_nodes_is_that_of_the_inputs_that_read_them():
    plan = places(cells=6, channels=4, image_size=16)

    def input_ms(place: InputPlace) -> float:
        return place.in_channels * place.place.channels * place.place.in_size**2 * (1 + place.number)

    latency = CellLatency.of_places(plan, 5, ("skip_connect",), lambda place: 0.0, 7.0, input_ms)
    chain = micro_cell([(0, 4), (1, 4), *((number, 4) for number in (2, 2, 3, 3, 4, 4, 5, 5))])
    star = micro_cell([(0, 4), (1, 4)] * 5)
    assert (len(chain.concat), len(star.concat)) == (1, 5)
    for genotype in (Genotype(chain, star), Genotype(star, chain), Genotype(star, star)):
        shape = CellNetworkShape(cells=6, channels=4, image_size=16)
        network = CellNetwork(genotype, shape)
        macs = 0
        for place, cell in zip(plan, network.cells, strict=True):
            for number in (0, 1):
                if place.index > 1 - number:
                    module = cell.inputs[number]
                    weights = sum(p.numel() for n, p in module.named_parameters() if "norm" not in n)
                    macs += weights * place.in_size**2 * (1 + number)
        assert latency.of_genotype(genotype) == pytest.approx(7.0 + macs)


def test_the_fit_finds_scales_of_operations_and_joins_and_refuses_what_is_below_0():
    rng = np.random.default_rng(0)
    sums_ms = rng.random((12, 2)) + 0.1
    assert line(sums_ms, sums_ms @ [0.9, 0.3] + 0.2) == pytest.approx([0.9, 0.3, 0.2])
    slope, join, offset = line(sums_ms, sums_ms @ [0.9, -0.01] + 0.2)
    assert (slope, join, offset) == pytest.approx((0.9, 0.0, 0.2), abs=0.02)
    without = sums_ms * (1.0, 0.0)
    assert line(without, without @ [0.9, 5.0] + 0.2) == pytest.approx([0.9, 0.0, 0.2])
