"""The exact entropy path: its layers against plain integers, its networks against the float ones, strips, tampering."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from onedc_hf.errors import ModelError
from onedc_hf.models.context import EntropyModel, fold
from onedc_hf.models.exact import _HYPER_HALO, ExactEntropyModel, _strips
from onedc_hf.models.integer import (
    ACTIVATION_LIMIT,
    KERNELS,
    SPLIT_SUM_LIMIT,
    WEIGHT_LIMIT,
    IntegerConv,
    _matmul_precision,
    dyadic_slope,
    leaky,
    rescale,
    self_test,
)
from onedc_hf.models.quantize import (
    Ranges,
    dequantise_entropy,
    gain_multipliers,
    largest_exponent,
    quantise_entropy,
    scale_thresholds,
)

CPU = torch.device("cpu")


def _layer(kind: str, seed: int = 0) -> tuple[IntegerConv, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = {"1x1": (12, 8, 1, 1), "3x3": (12, 8, 3, 3), "depthwise": (8, 1, 3, 3)}[kind]
    layer = IntegerConv(8, shape[0], shape[2], depthwise=kind == "depthwise")
    weight, bias = rng.standard_normal(shape) * 0.2, rng.standard_normal(shape[0])
    layer.quantise(weight, bias, 10, 9)
    return layer, weight, bias


def _in_python(layer: IntegerConv, x: np.ndarray) -> np.ndarray:
    """What the layer computes, with Python's integers and nothing else."""
    height, width, channels = x.shape
    side = math.isqrt(layer.taps)
    reach = side // 2
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    multiplier, shift = layer.multiplier.tolist(), int(layer.shift)
    out = np.zeros((height, width, len(weight)), dtype=np.int64)
    for row in range(height):
        for column in range(width):
            for o, taps in enumerate(weight):
                total = bias[o]
                for tap, weights in enumerate(taps):
                    y, z = row + tap // side - reach, column + tap % side - reach
                    if 0 <= y < height and 0 <= z < width:
                        values = [x[y, z, o]] if layer.depthwise else x[y, z]
                        total += sum(int(w) * int(v) for w, v in zip(weights, values, strict=True))
                scaled = (total * multiplier[o] + (1 << (shift - 1))) >> shift
                out[row, column, o] = max(-layer.limit, min(layer.limit, scaled))
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
def test_a_layer_computes_what_pythons_integers_do(kind: str, kernel: str) -> None:
    layer, *_ = _layer(kind)
    rng = np.random.default_rng(1)
    x = rng.integers(-ACTIVATION_LIMIT, ACTIVATION_LIMIT + 1, (4, 5, 8))
    x[0] = ACTIVATION_LIMIT
    x[1] = -ACTIVATION_LIMIT
    found = layer(torch.from_numpy(x)[None].float(), kernel)[0]
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy().astype(np.int64), _in_python(layer, x))


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiled_layers_compute_the_same_integers(kernel: str) -> None:
    first, second, third = (_layer(kind)[0] for kind in ("depthwise", "1x1", "3x3"))

    slope = dyadic_slope(0.125)

    def network(x: torch.Tensor) -> torch.Tensor:
        h = leaky(second(leaky(first(x, kernel), slope), kernel), slope)
        return third(rescale(h[..., :8], -1), kernel)

    generator = torch.Generator().manual_seed(1)
    limit = ACTIVATION_LIMIT
    x = torch.randint(-limit, limit + 1, (1, 9, 11, 8), generator=generator).float()
    x[:, 0], x[:, 1] = limit, -limit
    with torch.inference_mode():
        assert torch.equal(torch.compile(network)(x), network(x))


@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
def test_a_layer_comes_close_to_the_float_convolution(kind: str) -> None:
    layer, weight, bias = _layer(kind)
    x = torch.randint(-4000, 4000, (1, 16, 16, 8), generator=torch.Generator().manual_seed(0)).double()
    groups = 8 if kind == "depthwise" else 1
    exact = torch.nn.functional.conv2d(
        x.permute(0, 3, 1, 2) / 2**10, torch.from_numpy(weight), torch.from_numpy(bias), padding="same", groups=groups
    )
    found = layer(x.float()).permute(0, 3, 1, 2) / 2**9
    assert (found - exact).abs().max() < 0.004 * exact.abs().max()
    again, offset = layer.dequantise()
    assert torch.allclose(again.double(), torch.from_numpy(weight), atol=2e-3 * np.abs(weight).max())
    assert torch.allclose(offset.double(), torch.from_numpy(bias), atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_exact_at_the_extremes(kernel: str) -> None:
    assert self_test(kernel, CPU, torch.get_float32_matmul_precision())
    count = SPLIT_SUM_LIMIT // WEIGHT_LIMIT
    for sign in (1, -1):
        activations = torch.full((3, count), float(sign * ACTIVATION_LIMIT))
        found = KERNELS[kernel](activations, torch.full((count, 2), WEIGHT_LIMIT, dtype=torch.int16))
        assert found.unique().tolist() == [sign * ACTIVATION_LIMIT * WEIGHT_LIMIT * count]


def test_a_kernel_that_rounds_fails_its_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "float32", lambda a, w: (a @ w.float()).double())
    assert not self_test("float32", CPU, "highest")


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", WEIGHT_LIMIT + 1), ("multiplier", 1 << 16), ("multiplier", -1), ("bias", 1 << 37), ("shift", 53)],
)
def test_integers_out_of_bounds_are_refused(name: str, value: int) -> None:
    layer, *_ = _layer("1x1")
    getattr(layer, name).view(-1)[0] = value
    with pytest.raises(ValueError, match="out of bounds"):
        layer.check_bounds()


@pytest.mark.parametrize("weights", ["none", "one channel", "small"])
def test_channels_without_weights_are_held(weights: str) -> None:
    """A channel that training cut off, a branch that begins at zero: what is left of them is the bias."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 8, 1, 1)), rng.normal(size=4)
    weight[1:] *= 0 if weights == "none" else 1
    weight[0] *= 1e-7 if weights == "small" else 0
    layer = IntegerConv(8, 4)
    layer.quantise(weight, bias, 14, 10)
    x = torch.randint(-ACTIVATION_LIMIT, ACTIVATION_LIMIT, (1, 5, 5, 8), generator=torch.Generator().manual_seed(0))
    found = layer(x.float()).double() / 2**10
    wanted = (x.double() / 2**14) @ torch.from_numpy(weight[:, :, 0, 0]).T + torch.from_numpy(bias)
    assert (found - wanted.clamp(-32, 32)).abs().max() < 0.01
    IntegerConv(4, 4).quantise(np.zeros((4, 4, 1, 1)), np.zeros(4), 10, 10)
    IntegerConv(4, 4).quantise(np.zeros((4, 4, 1, 1)), None, 10, 10)


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = np.ones((4, 8, 1, 1))
    weight[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        IntegerConv(8, 4).quantise(weight, None, 0, 0)


def test_rescaling_and_slopes_round_as_documented() -> None:
    values = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    assert rescale(values, -1).tolist() == [-1, -1, 0, 0, 1, 1, 2]  # halves up
    assert rescale(values, 14).tolist() == [-ACTIVATION_LIMIT, -32767, -16384, 0, 16384, 32767, ACTIVATION_LIMIT]
    assert leaky(torch.tensor([-9.0, -8.0, -1.0, 5.0]), 0.125).tolist() == [-2, -1, -1, 5]
    assert dyadic_slope(0.125) == 0.125 and abs(dyadic_slope(0.01) - 0.01) < 3e-5
    with pytest.raises(ValueError, match="between 0 and 1"):
        dyadic_slope(1.0)


def test_tables_follow_the_scale_table() -> None:
    thresholds = np.array(scale_thresholds(12))
    scales = 0.11 * np.exp(np.arange(1, 256) * math.log(64 / 0.11) / 255)
    assert np.array_equal(thresholds, np.ceil(scales * 4096 - 1e-6))
    steps = np.array([[0, 40, -40]], dtype=np.int32)
    inverse, extra = gain_multipliers(steps, 12)
    assert inverse[0, 0] == 1 << (12 + extra)
    assert np.allclose(inverse[0] / inverse[0, 0], np.exp(-steps[0] * math.log(64 / 0.11) / 255), rtol=1e-6)


def test_exponents_leave_room_and_are_coarse() -> None:
    assert largest_exponent([1.0], ACTIVATION_LIMIT) == 12  # 4 x 2^12 < 32767
    assert largest_exponent([1.0 + 1e-6], ACTIVATION_LIMIT) == 12
    assert largest_exponent([3000.0, 2.0], ACTIVATION_LIMIT) == 1


# The whole model ------------------------------------------------------------------------------------------------------


def _float_model(y_channels: int = 8) -> EntropyModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EntropyModel(y_channels, [4] * 7, 3, expansion=2, spatial_prior_layers=2, slopes=(0.01, 0.1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.gain_steps.copy_(torch.tensor([-20, 0, 30])[:, None].expand(3, y_channels))
    return model


def _inputs(z_rows: int, z_columns: int, channels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-2, 2, (1, 7, z_rows, z_columns), generator=generator) / 2
    return codes, 3 * torch.randn(1, channels, 4 * z_rows, 4 * z_columns, generator=generator)


@torch.no_grad()
def _exact(model: EntropyModel) -> ExactEntropyModel:
    ranges = Ranges(model)
    codes, y = _inputs(6, 6)
    with ranges.watch():
        hyper = model.hyper_synthesis(codes)
        for row in range(3):
            code = lambda step: torch.round((y - step.means) * step.gain)  # noqa: E731
            ranges.note("y_hat", model.run_passes(hyper, model.gain(row), code))
    return quantise_entropy(model, ranges)


@torch.no_grad()
def _code(model: ExactEntropyModel, codes: torch.Tensor, y: torch.Tensor, row: int = 1):
    """The rebuilt latent, and symbols and scale indexes of every pass."""
    passes: list[list] = [[], [], [], []]

    def code(unit):
        symbols = unit.quantise(y)
        passes[unit.index].append((symbols, unit.scale_index))
        return symbols

    y_hat = model.code(model.hyper_synthesis(codes), model.gain(row), code)
    return y_hat, [[torch.cat(parts, dim=2) for parts in zip(*units, strict=True)] for units in passes]


@torch.no_grad()
def test_the_exact_model_says_what_the_float_model_says() -> None:
    model = _float_model()
    exact = _exact(model)
    codes, y = _inputs(4, 5)
    hyper, whole = model.hyper_synthesis(codes), exact.hyper_synthesis(codes)
    assert (hyper.semantic_seed - whole.semantic_seed).abs().max() < 2e-3 * hyper.semantic_seed.abs().max()
    unit = 2.0 ** -int(exact.bits[1])
    for expected, found in zip(hyper.params.chunk(2, dim=1), (whole.scales, whole.means), strict=True):
        assert (fold(expected, 0) - found * unit).abs().max() < 0.01 * expected.abs().max()
    code = lambda step: torch.round((y - step.means) * step.gain)  # noqa: E731
    for row in range(3):
        expected = model.run_passes(hyper, model.gain(row), code)
        found, _ = _code(exact, codes, y, row)
        # Where a residual lies close to a half the two round differently and go on from there; errors stay as small.
        assert float((found - y).abs().mean()) == pytest.approx(float((expected - y).abs().mean()), rel=0.05)


def _assert_same(found: tuple, expected: tuple) -> None:
    """Latents, symbols and scale indexes, each the same integers."""
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 4])  # of z
def test_coding_units_give_the_same_integers_as_the_whole(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    exact = _exact(_float_model())
    codes, y = _inputs(13, 3)
    whole = _code(exact, codes, y)
    monkeypatch.setattr("onedc_hf.coding.order.UNIT_POSITIONS", 3 * rows)
    _assert_same(_code(exact, codes, y), whole)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 4])  # of z
def test_strips_with_their_halo_give_the_same_integers_as_the_whole(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    exact = _exact(_float_model())
    codes, y = _inputs(13, 3)
    whole, hyper = _code(exact, codes, y), exact.hyper_synthesis(codes)
    # The names that exact.py imported: coding units stay whole, the networks work on strips of them.
    monkeypatch.setattr("onedc_hf.models.exact.UNIT_POSITIONS", 3)
    monkeypatch.setattr("onedc_hf.models.exact._STRIP_POSITIONS", 3 * rows)
    count = math.ceil(13 / rows)
    assert len(list(_strips(13, 3, _HYPER_HALO))) == count > 1
    strips = exact.hyper_synthesis(codes)
    for name in ("semantic_seed", "scales", "means", "reduced"):
        assert torch.equal(getattr(strips, name), getattr(hyper, name)), name
    of_a_pass, asked = exact._strip_parameters, []
    monkeypatch.setattr(exact, "_strip_parameters", lambda *given: asked.append(given[0]) or of_a_pass(*given))
    _assert_same(_code(exact, codes, y), whole)
    assert [asked.count(index) for index in (1, 2, 3)] == [count] * 3


def test_the_precision_of_products_is_known_however_it_was_set() -> None:
    assert _matmul_precision() == torch.get_float32_matmul_precision()
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # after which the older interface refuses to tell
    try:
        assert _matmul_precision() == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_both_kernels_give_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = _exact(_float_model())
    codes, y = _inputs(3, 4)
    results = []
    for kernel in KERNELS:
        monkeypatch.setattr("onedc_hf.models.exact.choose_kernel", lambda _, kernel=kernel: kernel)
        results.append(_code(exact, codes, y)[0])
    assert torch.equal(*results)


def test_batches_with_a_row_each_equal_single_items() -> None:
    exact = _exact(_float_model())
    (codes, y), rows = _inputs(2, 2), torch.tensor([0, 2])
    both = torch.cat([codes, codes.flip(-1)]), torch.cat([y, y.flip(-1)])
    with torch.no_grad():
        y_hat = exact.code(exact.hyper_synthesis(both[0]), exact.gain(rows), lambda unit: unit.quantise(both[1]))
    for i, row in enumerate(rows.tolist()):
        assert torch.equal(y_hat[i : i + 1], _code(exact, both[0][i : i + 1], both[1][i : i + 1], row)[0])


def test_quantising_twice_gives_one_digest_and_every_integer_counts() -> None:
    first, second = _exact(_float_model()), _exact(_float_model())
    digest = first.digest()
    assert second.digest() == digest
    for name, tensor in second.state_dict().items():
        before = tensor.clone()
        tensor.view(-1)[0] += 1
        assert second.digest() != digest, name
        tensor.copy_(before)
    assert second.to(torch.bfloat16).digest() == digest


@torch.no_grad()
def test_training_can_go_on_from_the_integers() -> None:
    model = _float_model()
    again = dequantise_entropy(_exact(model))
    for name, parameter in model.state_dict().items():
        found = again.state_dict()[name]
        assert torch.allclose(found.double(), parameter.double(), atol=2e-3 * float(parameter.abs().max() + 1e-3)), name


def test_calibration_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        quantise_entropy(_float_model(), Ranges(_float_model()))


def test_a_codec_is_made_exact_once(tiny_pipeline) -> None:
    with pytest.raises(ModelError, match="exact already"):
        tiny_pipeline.quantize_entropy()
