"""The space around one network: its layers as the largest choices, smaller ones beside them."""

from collections.abc import Sequence

from ofa_kit.arch.choices import BlockSpace, ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.layer import Layer, make_divisible
from ofa_kit.arch.space import SearchSpace

EXPAND_FRACTIONS = (0.5, 0.75, 1.0)
MOST_SKIPPED = 2
BLOCKS = ("inverted_residual", "bottleneck")


def space_of(
    net: Sequence[Layer],
    resolutions: Sequence[int],
    name: str,
    *,
    expand_fractions: Sequence[float],
    most_skipped: int,
) -> SearchSpace:
    """Return the space whose largest subnet has the layers `net`: stem, blocks, head."""
    blocks = [layer for layer in net if layer.op in BLOCKS]
    first = net.index(blocks[0])
    stem = [layer for layer in net[:first] if layer.op == "conv"]
    head = net[first + len(blocks) :]
    divisor = 1 if any(layer.hidden_channels % 8 for layer in blocks) else 8
    return SearchSpace(
        name=name,
        resolutions=tuple(resolutions),
        stages=tuple(_stage(stage, divisor, expand_fractions, most_skipped) for stage in _stages(blocks)),
        in_channels=net[0].in_channels,
        num_classes=net[-1].out_channels,
        stem=tuple(
            ConvSpace(
                widths=(conv.out_channels,),
                kernel_size=conv.kernel_size,
                stride=conv.stride,
                activation=conv.activation,
            )
            for conv in stem
        ),
        stem_max_pool=any(layer.op == "max_pool" for layer in net),
        head=_head(head),
        bn_eps=net[0].bn_eps,
        channel_divisor=divisor,
    )


def _stages(blocks: Sequence[Layer]) -> list[list[Layer]]:
    """Group blocks: a new stage where the shape changes, and where what a stage shares does."""
    stages: list[list[Layer]] = []
    for block in blocks:
        if not stages or not _continues(stages[-1], block):
            stages.append([])
        stages[-1].append(block)
    return stages


def _continues(stage: Sequence[Layer], block: Layer) -> bool:
    last = stage[-1]
    same_shape = block.stride == 1 and block.in_channels == block.out_channels and not block.projected
    alike = (block.op, block.activation) == (last.op, last.activation)
    squeezes = {(b.squeeze_activation, b.gate) for b in (*stage, block) if b.squeeze_channels}
    return same_shape and alike and len(squeezes) <= 1


def _stage(blocks: Sequence[Layer], divisor: int, fractions: Sequence[float], most_skipped: int) -> StageSpace:
    choices = tuple(_block(block, divisor, fractions) for block in blocks)
    first, squeezing = blocks[0], [b for b in blocks if b.squeeze_channels] or list(blocks)
    return StageSpace(
        widths=(first.out_channels,),
        depths=tuple(range(max(1, len(blocks) - most_skipped), len(blocks) + 1)),
        kernel_sizes=tuple(sorted({k for choice in choices for k in choice.kernel_sizes})),
        expand_ratios=tuple(sorted({e for choice in choices for e in choice.expand_ratios})),
        stride=first.stride,
        activation=first.activation,
        squeeze_excite=any(b.squeeze_channels for b in blocks),
        block="bottleneck" if first.op == "bottleneck" else "inverted_residual",
        blocks=choices,
        squeeze_activation=squeezing[0].squeeze_activation,
        gate=squeezing[0].gate,
        downsample=first.downsample,
    )


def _block(block: Layer, divisor: int, fractions: Sequence[float]) -> BlockSpace:
    bottleneck = block.op == "bottleneck"
    kernels = (block.kernel_size,) if bottleneck else tuple(range(3, block.kernel_size + 1, 2))
    base = block.out_channels if bottleneck else block.in_channels
    hidden = {block.hidden_channels}
    if bottleneck or block.hidden_channels > block.in_channels:
        smaller = {make_divisible(round(block.hidden_channels * fraction), divisor) for fraction in fractions}
        hidden |= {h for h in smaller if h < block.hidden_channels and (bottleneck or h > block.in_channels)}
    ratios = tuple(_ratio(channels, base) for channels in sorted(hidden))
    return BlockSpace(kernel_sizes=kernels, expand_ratios=ratios, squeeze_channels=block.squeeze_channels)


def _ratio(hidden: int, base: int) -> float:
    """Return hidden by base channels with the six digits that a CSV row keeps; an int where it is one."""
    ratio = float(f"{hidden / base:g}")
    return int(ratio) if ratio.is_integer() else ratio


def _head(net: Sequence[Layer]) -> HeadSpace:
    by_op = {layer.op: layer for layer in net}
    conv, feature = by_op.get("conv"), by_op.get("pooled_conv")
    first = conv or feature
    return HeadSpace(
        activation="relu" if first is None else first.activation,
        conv_width=0 if conv is None else conv.out_channels,
        feature_widths=() if feature is None else (feature.out_channels,),
        feature_bias=feature is not None,
    )
