"""The space of one architecture: what a subnet is trained alone in, or fine-tuned."""

from dataclasses import replace

from ofa_kit.arch.choices import BlockSpace
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace


def only(space: SearchSpace, arch: ArchConfig) -> SearchSpace:
    """Return the sub-space that holds `arch` alone; its layers are those of `arch` in `space`."""
    squeezed = {layer.name: layer.squeeze_channels for layer in layers(space, arch)}
    stages = []
    for index, (stage, choices) in enumerate(zip(arch.stages, space.stages, strict=True)):
        blocks = tuple(
            BlockSpace(
                kernel_sizes=(k,),
                expand_ratios=(e,),
                squeeze_channels=squeezed[f"stage{index}_block{block}"],
                operations=stage.operations[block : block + 1],
                weight_bits=stage.weight_bits[block : block + 1],
                activation_bits=stage.activation_bits[block : block + 1],
            )
            for block, (k, e) in enumerate(zip(stage.kernel_sizes, stage.expand_ratios, strict=True))
        )
        stages.append(
            replace(
                choices,
                widths=(stage.width,),
                depths=(stage.depth,),
                kernel_sizes=blocks[0].kernel_sizes,
                expand_ratios=blocks[0].expand_ratios,
                shared=False,
                blocks=blocks,
            )
        )
    chosen = iter(arch.stem)
    stem = []
    for conv in space.stem:
        if conv.residual:
            stem.append(replace(conv, presence=(next(chosen),)))
        else:
            stem.append(replace(conv, widths=(next(chosen),)) if conv.elastic else conv)
    head = replace(space.head, feature_widths=arch.head) if arch.head else space.head
    return replace(
        space,
        name=f"{space.name}-{arch.key}",
        resolutions=(arch.resolution,),
        stages=tuple(stages),
        stem=tuple(stem),
        head=head,
    )
