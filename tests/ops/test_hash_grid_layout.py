"""The layout is tiny-cuda-nn's: parameter counts, and properties of the levels."""

import pytest

from dreamfusion.ops.hash_grid.layout import HashGridLayout


@pytest.mark.parametrize(("log2_size", "count"), [(15, 944_080), (17, 3_396_864), (19, 12_196_240)])
def test_parameter_counts_are_those_of_tiny_cuda_nn(log2_size, count):
    assert HashGridLayout(log2_table_size=log2_size).parameter_count == count


def test_resolutions_run_geometrically_from_base_to_max():
    layout = HashGridLayout()
    assert layout.per_level_scale == pytest.approx(128 ** (1 / 15))
    assert layout.scales[0] == 15 and layout.resolutions[0] == 16
    assert layout.resolutions[-1] in (2048, 2049)  # the float32 power rounds to one side of 2047
    for level, scale in enumerate(layout.scales):
        assert scale == pytest.approx(16 * layout.per_level_scale**level - 1, rel=1e-5)


def test_a_growth_of_two_gives_exact_powers():
    layout = HashGridLayout(levels=5, base_resolution=16, max_resolution=256)
    assert layout.scales == (15, 31, 63, 127, 255)
    assert layout.resolutions == (16, 32, 64, 128, 256)


def test_a_level_is_dense_exactly_if_its_vertices_fit_the_table():
    layout = HashGridLayout(log2_table_size=17)
    assert layout.dense == tuple(r**3 <= 2**17 for r in layout.resolutions)
    assert layout.sizes[0] == 16**3
    assert {size for size, dense in zip(layout.sizes, layout.dense, strict=True) if not dense} == {2**17}


def test_levels_lie_one_after_the_other_in_multiples_of_eight():
    layout = HashGridLayout(base_resolution=5, max_resolution=33, levels=4)
    assert layout.sizes[0] == 128  # 125, rounded up
    assert all(size % 8 == 0 for size in layout.sizes)
    assert layout.offsets == tuple(sum(layout.sizes[:k]) for k in range(4))
    assert layout.parameter_count == sum(layout.sizes) * 2
    assert layout.width == 8


def test_one_level_has_the_base_resolution():
    assert HashGridLayout(levels=1, base_resolution=16, max_resolution=16).resolutions == (16,)


def test_equal_layouts_are_one_key():
    assert len({HashGridLayout(), HashGridLayout(), HashGridLayout(levels=8)}) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": 0}, "levels is 0, allowed are 1 to 32"),
        ({"features": 3}, "features is 3, allowed are 2, 4 and 8"),
        ({"log2_table_size": 40}, "log2_table_size is 40, allowed are 3 to 28"),
        ({"base_resolution": 64, "max_resolution": 32}, "max_resolution is 32, allowed are 64 to"),
    ],
)
def test_a_number_out_of_range_is_named_with_the_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        HashGridLayout(**wrong)
