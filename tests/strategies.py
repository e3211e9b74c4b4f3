"""Random architectures and spaces for property tests."""

from hypothesis import strategies as st

from nas.architecture import Architecture, Stage


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
    )
