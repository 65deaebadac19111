"""Conversion: the function stays, the statistics become the pooled ones of the data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from daft_rl import convert_batchnorm
from daft_rl.batchnorm import (
    Statistics,
    apply_statistics,
    batchnorm_layers,
    measure_statistics,
    mix_statistics,
    running_statistics,
)
from daft_rl.errors import BatchNormError, DaftError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def randomize(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Random affine parameters and running statistics, as a trained network has."""
    for layer in batchnorm_layers(module).values():
        with torch.no_grad():
            layer.mean.copy_(torch.randn(layer.mean.shape, generator=generator))
            layer.var.copy_(torch.rand(layer.var.shape, generator=generator) * 3 + 0.05)
            if layer.weight is not None and layer.bias is not None:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
    return module


def network(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A small network with two normalization layers, and the shape of one sample."""
    if kind in ("BatchNorm1d", "SyncBatchNorm", "BatchRenorm1d"):
        norm = {"BatchNorm1d": nn.BatchNorm1d, "SyncBatchNorm": nn.SyncBatchNorm, "BatchRenorm1d": BatchRenorm1d}[kind]
        return nn.Sequential(norm(5), nn.Linear(5, 7), norm(7), nn.Tanh(), nn.Linear(7, 3)), (5,)
    conv, norm, size = {
        "BatchNorm1d-sequence": (nn.Conv1d, nn.BatchNorm1d, (2, 6)),
        "BatchNorm2d": (nn.Conv2d, nn.BatchNorm2d, (2, 6, 6)),
        "BatchNorm3d": (nn.Conv3d, nn.BatchNorm3d, (2, 4, 4, 4)),
    }[kind]
    return nn.Sequential(norm(2), conv(2, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)), size


KINDS = ["BatchNorm1d", "SyncBatchNorm", "BatchRenorm1d", "BatchNorm1d-sequence", "BatchNorm2d", "BatchNorm3d"]


def evaluate(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        return module(x)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_function_is_kept_and_statistics_are_pooled(kind: str, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    module, shape = network(kind)
    module(torch.zeros(2, *shape))  # lazy layers take their size
    randomize(module, generator)
    module.to(device=device, dtype=dtype)
    batches = [
        (torch.randn(n, *shape, generator=generator) * (i + 1) + i).to(device=device, dtype=dtype)
        for i, n in enumerate((1, 17, 4))
    ]
    data = torch.cat(batches)
    before = evaluate(module, data)
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in batchnorm_layers(module)}
    for name, layer in batchnorm_layers(module).items():
        layer.module.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0]))
    evaluate(module, data)

    convert_batchnorm(module, batches)

    assert relative_difference(evaluate(module, data), before) <= TOLERANCE[dtype]
    for name, layer in batchnorm_layers(module).items():
        x = inputs[name][0].double().movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(layer.mean.double(), x.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.var.double(), x.var(0), rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= 2),
    offset=st.floats(-1e4, 1e4),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_pooling_does_not_depend_on_the_cut(sizes: list[int], offset: float, scale: float, seed: int) -> None:
    data = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    data = data * scale + offset
    pooled = Statistics()
    for batch in data.split(sizes):
        pooled.update(batch)
    assert pooled.count == len(data)
    torch.testing.assert_close(pooled.mean, data.mean(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pooled.var, data.var(0), rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5), spread=st.floats(0.05, 20))
def test_conversion_keeps_any_network(seed: int, shift: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = randomize(network("BatchNorm1d")[0], generator).double()
    data = torch.randn(64, 5, generator=generator, dtype=torch.float64) * spread + shift
    before = evaluate(module, data)
    convert_batchnorm(module, data.split(10))
    assert relative_difference(evaluate(module, data), before) <= 1e-11
    # statistics that were reached twice change nothing more
    once = {name: value.clone() for name, value in module.state_dict().items()}
    convert_batchnorm(module, data.split(7))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, once[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, BatchRenorm1d])
def test_constant_channel_stays_finite_and_alive(norm: type[nn.Module]) -> None:
    module = randomize(nn.Sequential(norm(3)), torch.Generator().manual_seed(1))
    data = torch.randn(50, 3)
    data[:, 1] = 4.0
    elsewhere = torch.randn(50, 3) + 4.0
    before, before_elsewhere = evaluate(module, data), evaluate(module, elsewhere)
    convert_batchnorm(module, [data])
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert next(iter(batchnorm_layers(module).values())).var[1] == 0.0
    torch.testing.assert_close(evaluate(module, data), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(evaluate(module, elsewhere), before_elsewhere, rtol=1e-4, atol=1e-4)


def test_batches_of_one_are_pooled_but_one_value_is_refused() -> None:
    module: Any = randomize(nn.Sequential(nn.BatchNorm1d(2)), torch.Generator().manual_seed(2))
    data = torch.randn(6, 2)
    convert_batchnorm(module, data.split(1))
    torch.testing.assert_close(module[0].running_var, data.var(0))
    with pytest.raises(BatchNormError, match="at least 2 values per channel, got 1"):
        convert_batchnorm(module, [data[:1]])


def test_single_image_has_enough_values() -> None:
    module: Any = randomize(nn.Sequential(nn.BatchNorm2d(2)), torch.Generator().manual_seed(2))
    convert_batchnorm(module, [torch.randn(1, 2, 4, 4)])
    assert torch.isfinite(module[0].running_var).all()


def test_refusals_change_nothing() -> None:
    data = torch.randn(8, 3)
    for module, message in [
        (nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False)), "affine=False"),
        (nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)), "track_running_stats"),
        (nn.Sequential(BatchRenorm1d(3), BatchRenorm1d(3, affine=False)), "affine=False"),
    ]:
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with pytest.raises(BatchNormError, match=message):
            convert_batchnorm(module, [data])
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(DaftError, match="empty"):
        convert_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), [])


def test_refresh_only_replaces_statistics() -> None:
    module = randomize(nn.Sequential(nn.BatchNorm1d(3, affine=False)), torch.Generator().manual_seed(3))
    data = torch.randn(40, 3) * 2 + 1
    apply_statistics(module, measure_statistics(module, [data]), preserve_function=False)
    torch.testing.assert_close(evaluate(module, data).mean(0), torch.zeros(3), rtol=0, atol=1e-5)


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.same = self.norm

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + 2 * self.same(y)


def test_shared_layer_pools_all_its_inputs() -> None:
    module = CalledTwice()
    randomize(module, torch.Generator().manual_seed(4))
    module.eval()
    x, y = torch.randn(10, 3), torch.randn(10, 3) + 3
    before = module(x, y)
    convert_batchnorm(module, [(x, y)])
    torch.testing.assert_close(module.norm.running_mean, torch.cat([x, y]).mean(0))
    torch.testing.assert_close(module(x, y), before, rtol=1e-5, atol=1e-5)


def test_modes_and_hooks_are_left_as_found() -> None:
    module: Any = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    module.train()
    module[2].eval()
    steps = module[0].num_batches_tracked.clone()
    convert_batchnorm(module, [torch.randn(8, 3)])
    assert [m.training for m in module] == [True, True, False]
    assert torch.equal(module[0].num_batches_tracked, steps)

    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    broken = nn.Sequential(nn.BatchNorm1d(3), Breaks()).train()
    with pytest.raises(RuntimeError, match="broken"):
        convert_batchnorm(broken, [torch.randn(8, 3)])
    assert broken.training
    assert broken[0].training
    assert not broken[0]._forward_pre_hooks


def test_layers_that_were_not_reached_are_left_alone() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    module: Any = Partly()
    assert set(convert_batchnorm(module, [torch.randn(9, 2)])) == {"used"}
    assert torch.equal(module.unused.running_mean, torch.zeros(2))


def test_tensors_are_edited_in_place() -> None:
    """SB3 keeps lists of the statistics' tensors (``batch_norm_stats``)."""
    module: Any = nn.Sequential(nn.BatchNorm1d(2))
    held = module[0].running_mean
    convert_batchnorm(module, [torch.randn(9, 2) + 5])
    assert held is module[0].running_mean
    assert held.mean() > 3


def test_mixture_is_that_of_the_data() -> None:
    old, new = torch.randn(30_000, 2).double(), (torch.randn(10_000, 2) * 3 + 2).double()
    module = nn.Sequential(nn.BatchNorm1d(2)).double()
    apply_statistics(module, measure_statistics(module, [old]), preserve_function=False)
    mixed = mix_statistics(module, measure_statistics(module, [new]), weight=0.25)["0"]
    torch.testing.assert_close(mixed.mean, torch.cat([old, new]).mean(0))
    torch.testing.assert_close(mixed.var, torch.cat([old, new]).var(0), rtol=1e-3, atol=0)


def test_running_statistics_are_copies() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2))
    before = running_statistics(module)
    convert_batchnorm(module, [torch.randn(9, 2) + 5])
    assert torch.equal(before["0"][0], torch.zeros(2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_refused_and_nothing_changes(value: float) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rows = torch.randn(64, 3)
    rows[7, 1] = value
    with pytest.raises(BatchNormError, match=r"BatchNorm layer '1' gets values that are NaN or infinite"):
        convert_batchnorm(module, [torch.randn(64, 3), rows])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_batches_without_rows_are_refused_and_nothing_changes() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(BatchNormError, match=r"BatchNorm layer '1' gets no values"):
        convert_batchnorm(module, [torch.randn(0, 3)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    convert_batchnorm(module, [torch.randn(0, 3), torch.randn(9, 3)])
