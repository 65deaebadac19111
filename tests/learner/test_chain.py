"""A chain computes what its layers compute, with the same gradients, and goes back to them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from daft_rl.agents import fuse_batch_renorm
from daft_rl.learner.chain import Chain, fuse_chains, separate_chains
from daft_rl.learner.products import has_onednn

NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 2)],
    "batchnorm": lambda: [nn.BatchNorm1d(7), nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2), nn.Tanh()],
    "renorm": lambda: [BatchRenorm1d(7), nn.Linear(7, 9), nn.ReLU(), BatchRenorm1d(9)],
}


def network(kind: str, dtype: torch.dtype = torch.float64, warm: bool = True) -> nn.Sequential:
    """With weights and running statistics that are not those of a new one."""
    torch.manual_seed(0)
    built = nn.Sequential(*NETWORKS[kind]()).to(dtype)
    for name, tensor in [*built.named_parameters(), *built.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5) if "var" in name else tensor.data.normal_()
        elif name.endswith("steps"):
            tensor.fill_(200_000 if warm else 0)
    fuse_batch_renorm(built)
    return built


def run(module: nn.Module, dtype: torch.dtype = torch.float64, rows: int = 12) -> list[torch.Tensor]:
    """Output, gradients of input and parameters, and the buffers afterwards."""
    torch.manual_seed(1)
    x = torch.randn(rows, 7, dtype=dtype, requires_grad=True)
    output = module(x)
    wanted = [x, *module.parameters()]
    return [output, *torch.autograd.grad(output, wanted, torch.randn_like(output)), *module.buffers()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_chain_has_the_output_the_gradients_and_the_statistics_of_its_layers(kind: str, training: bool) -> None:
    plain = network(kind).train(training)
    chain = copy.deepcopy(plain)
    fuse_chains(chain)
    assert type(chain) is Chain
    for expected, found in zip(run(plain), run(chain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_mode_that_changes_before_the_gradient_is_computed_changes_nothing(kind: str, training: bool) -> None:
    """CrossQ changes modes between the two."""
    gradients = []
    for fuse in (False, True):
        built = network(kind).train(training)
        if fuse:
            fuse_chains(built)
        torch.manual_seed(1)
        output = built(torch.randn(12, 7, dtype=torch.float64)).square().sum()
        built.train(not training)
        gradients.append(torch.autograd.grad(output, list(built.parameters())))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    chain = network(kind).eval()
    fuse_chains(chain)
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(chain, x)


@pytest.mark.skipif(not has_onednn(), reason="built without oneDNN")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_onednn_multiplies_large_matrices_to_float32(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(7, 256), activation(), nn.Linear(256, 256), activation(), nn.Linear(256, 1))
    chain = copy.deepcopy(plain)
    fuse_chains(chain)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = run(chain, torch.float32, rows=256)
    assert any("mkldnn::_linear_pointwise" in event.key for event in profile.key_averages())
    for expected, value in zip(run(plain, torch.float32, rows=256), found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_without_gradients_a_chain_computes_the_same() -> None:
    chain = network("batchnorm").eval()
    fuse_chains(chain)
    x = torch.randn(3, 7, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(chain(x), chain(x.requires_grad_()).detach())


def test_frozen_parameters_get_no_gradient_and_the_rest_do() -> None:
    chain = network("batchnorm").eval()
    fuse_chains(chain)
    first, last = chain[1], chain[4]
    first.requires_grad_(False)
    chain(torch.randn(6, 7, dtype=torch.float64)).sum().backward()
    assert first.weight.grad is None
    assert last.weight.grad is not None


HOOKS = ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook")


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_on_layers_are_called(kind: str) -> None:
    chain = network("batchnorm").eval()
    fuse_chains(chain)
    seen: list[str] = []
    getattr(chain[2], f"register_{kind}")(lambda *_: seen.append(kind))
    chain(torch.randn(6, 7, dtype=torch.float64)).sum().backward()
    assert seen == [kind]


def test_hooks_on_all_modules_are_called() -> None:
    chain = network("batchnorm").eval()
    fuse_chains(chain)
    seen: list[nn.Module] = []
    with nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer)):
        chain(torch.randn(6, 7, dtype=torch.float64))
    assert seen == [*chain, chain]


def test_a_forward_put_on_a_layer_is_called() -> None:
    chain = network("linear")
    fuse_chains(chain)
    layer = chain[0]
    layer.forward = lambda x: torch.zeros(len(x), 9, dtype=x.dtype)
    x = torch.randn(6, 7, dtype=torch.float64)
    assert torch.equal(chain(x), chain(-x))


def test_one_row_has_no_statistics() -> None:
    for fuse in (False, True):
        built = network("batchnorm").train()
        if fuse:
            fuse_chains(built)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            built(torch.randn(1, 7, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["batchnorm", "renorm"])
def test_a_later_batch_does_not_change_the_gradient_of_an_earlier_one(kind: str) -> None:
    gradients = []
    for later in (False, True):
        chain = network(kind).eval()
        fuse_chains(chain)
        torch.manual_seed(1)
        output = chain(torch.randn(12, 7, dtype=torch.float64)).square().sum()
        if later:
            chain.train()(torch.randn(12, 7, dtype=torch.float64))
        gradients.append(torch.autograd.grad(output, list(chain.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.skipif(not has_onednn(), reason="built without oneDNN")
def test_what_is_not_a_number_stays_none_behind_onednns_products() -> None:
    """oneDNN's own ReLU makes 0 of it, which would hide that learning has diverged."""
    chain = nn.Sequential(nn.Linear(256, 256), nn.ReLU())
    fuse_chains(chain)
    assert chain(torch.full((256, 256), float("nan"))).isnan().all()


def test_a_users_own_batch_renormalization_is_left_alone() -> None:
    class Own(BatchRenorm1d):
        """Perhaps with another forward."""

    built = nn.Sequential(nn.Linear(7, 9), Own(9))
    fuse_chains(built)
    assert type(built) is nn.Sequential


def test_a_gradient_of_a_gradient_is_refused() -> None:
    chain = network("linear")
    fuse_chains(chain)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(chain(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.LayerNorm(9), nn.BatchNorm1d(9, affine=False), nn.ELU()])
def test_a_network_with_a_layer_that_cannot_join_is_left_alone(layer: nn.Module) -> None:
    built = nn.Sequential(nn.Linear(7, 9), layer)
    fuse_chains(built)
    assert type(built) is nn.Sequential


def test_what_is_separated_is_an_ordinary_network_again() -> None:
    plain = network("renorm")
    before = set(vars(plain))
    fuse_chains(plain)
    assert type(pickle.loads(pickle.dumps(plain))) is Chain
    separate_chains(plain)
    assert (type(plain), set(vars(plain))) == (nn.Sequential, before)
