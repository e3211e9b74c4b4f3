"""Random architectures and spaces for property tests."""

from hypothesis import strategies as st

from nas.networks.architecture import Architecture
from nas.networks.blocks import Layer
from nas.networks.stages import Stage
from nas.spaces.space import SearchSpace


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    op = draw(st.sampled_from(["cn", "ds", "ir", "er"]))
    expansion = 1 if op in ("cn", "ds") else draw(st.sampled_from([1, 2, 2.5, 3, 4, 6]))
    plain = op == "cn" or (op == "er" and expansion == 1)
    return Stage(
        op=op,
        repeats=draw(st.integers(1, 3)),
        kernel=draw(st.sampled_from([1, 3, 5, 7])),
        stride=draw(st.integers(1, 2)),
        expansion=expansion,
        channels=draw(st.sampled_from([4, 8, 12, 16, 24, 30])),
        se=0 if plain else draw(st.sampled_from([0, 0.04, 0.25, 0.5, 1])),
        skip=draw(st.booleans()),
        activation=draw(st.sampled_from([None, "relu", "relu6", "silu", "hardswish"])),
    )


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    return Architecture(
        stages=tuple(draw(st.lists(stages(), min_size=1, max_size=4))),
        stem=draw(st.sampled_from([3, 8, 16, 17])),
        head=draw(st.sampled_from([5, 16, 64])),
        resolution=draw(st.integers(1, 70)),
        activation=draw(st.sampled_from(["relu", "silu"])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-3, 2.5e-06])),
        norm_momentum=draw(st.sampled_from([0.1, 0.01])),
        stem_stride=draw(st.integers(1, 2)),
    )


@st.composite
def small_spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of a few hundred spellings, many of them of the same layers."""

    def choice(letter: str, values: list[float]) -> str:
        picked = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
        return f"{letter}{{{'|'.join(map(str, picked))}}}"

    templates = []
    for _ in range(draw(st.integers(1, 2))):
        words = [draw(st.sampled_from(["ir", "er", "{ir|er}"])), "k3_s1", choice("r", [1, 2])]
        words += [choice("e", [0.9, 1.000001, 1.1, 2, 2.4, 2.5, 2.6, 3]), choice("c", [4, 8, 12, 16])]
        words += [choice("se", [0, 0.1, 0.25, 0.26, 0.3])]
        templates.append("_".join(words))
    return SearchSpace("small", tuple(templates), stem=draw(st.sampled_from([4, 8, 16])), head=8, resolution=8)


@st.composite
def strided_spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces whose stages have one stride each, with choices written in several ways."""
    templates = []
    for _ in range(draw(st.integers(1, 4))):
        stride = draw(st.integers(1, 2))
        widths = draw(st.lists(st.sampled_from([8, 16, 24, 32, 40, 48]), min_size=1, max_size=3, unique=True))
        channels = "|".join(map(str, widths))
        templates.append(
            draw(
                st.sampled_from(
                    [
                        f"ir_r{{1|2}}_k3_s{stride}_e{{3|6}}_c{{{channels}}}",
                        f"{{ds|er_e4}}_k3_s{stride}_c{{{channels}}}",
                        f"{{ds_c{widths[0]}|ir_e6_c{widths[-1]}_se0.25}}_r1_k{{3|5}}_s{stride}",
                        f"cn_c{widths[0]}_k3_s{stride}_r{{1|2}}",
                    ]
                )
            )
        )
    resolution, stem_stride = draw(st.integers(8, 256)), draw(st.integers(1, 2))
    return SearchSpace("strided", tuple(templates), 16, 64, resolution, target_madds=10**7, stem_stride=stem_stride)


def layers_of(arch: Architecture) -> list[list[tuple[tuple[Layer, ...], bool, str]]]:
    """The blocks of each stage, one after the other."""
    found: list[list[tuple[tuple[Layer, ...], bool, str]]] = [[] for _ in arch.stages]
    for block in arch.walk()[1:-1]:
        found[block.stage - 1].append((block.layers, block.residual, block.activation or arch.activation))
    return found
