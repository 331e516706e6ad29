"""A module that is no function of its inputs is refused, with what is at fault; one that only keeps a cache is not."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import StepError, UserCodeError
from tasks.core.tensors import Tensors
from tasks.core.user_code import call_user
from tasks.runtimes.torch_eager import TorchEagerSession
from tasks.sources.torch_repeatable import Repeatable, check_factory
from tasks.sources.torch_state import ModuleState

if TYPE_CHECKING:
    from torch import nn

BATCHES: list[Tensors] = [
    {"x": np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)} for seed in (0, 1)
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch  # here, for every process of the tests reads this file

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str) -> "nn.Module":
    from tests.sources import stateful_modules

    return cast("nn.Module", getattr(stateful_modules, name)().eval())


def run_by(module: "nn.Module") -> Callable[[Tensors], Tensors]:
    session = TorchEagerSession(module, ["x"], ["y"], by_name="x" in inspect.signature(module.forward).parameters)
    return lambda feeds: cast("Tensors", call_user("m:build", partial(session.infer, feeds)))


def check(make: "Callable[[], nn.Module]") -> list[Tensors]:
    """As the export does: the module's own runs, then one made anew."""
    module = make()
    repeatable = Repeatable(module, ModuleState(module), run_by(module), "m:build")
    outputs = repeatable.check(BATCHES)
    repeatable.check_fresh(run_by(make()), BATCHES, outputs)
    return outputs


FAULTS = {
    "Noisy": ["the module itself", "draws random numbers"],
    # What is given by keyword counts too: the layer after the noise is not at fault.
    "Functional": ["forward of the module itself draws random numbers"],
    "NumpyNoise": ["draws random numbers"],
    "Clock": ["a clock"],
    "Awake": ["'norm' (BatchNorm1d) is in training mode"],
    "Counting": ["depends on what it was run on before: 'count' changes"],
    "Remembering": ["depends on what it was run on before: 'last' changes"],
    "Keeping": ["depends on what it was run on before: 'keys' changes"],
    "Growing": ["may run only once: 'state' changes in a run", "The size of tensor"],
    "FirstSeen": ["depend on what the module was run on first: 'mean' changes"],
    "Scaled": ["makes another module each time it is called"],
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_function_of_its_inputs_is_refused_by_name(name: str) -> None:
    with pytest.raises(StepError) as raised:
        check(partial(made, name))
    assert [part for part in FAULTS[name] if part not in raised.value.message] == [], raised.value.message
    assert raised.value.cure


@pytest.mark.parametrize("name", ["Cached", "Aside", "Masked"])
def test_a_function_passes_whatever_it_keeps_and_gives(name: str) -> None:
    expected = run_by(made(name))(BATCHES[0])["y"]
    np.testing.assert_array_equal(check(partial(made, name))[0]["y"], expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_layers_that_sleep_and_modules_without_code_pass() -> None:
    import torch
    from torch import nn

    check(lambda: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).eval())
    check(lambda: torch.jit.script(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())).eval())


@given(layers=st.lists(st.sampled_from(["relu", "tanh", "inner"]), min_size=1, max_size=4), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_layer_where_noise_begins_is_named_wherever_it_lies(layers: list[str], data: st.DataObject) -> None:
    from torch import nn

    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "inner": lambda: nn.Sequential(nn.Identity(), nn.Identity()),
    }
    net = nn.Sequential(*(kinds[layer]() for layer in layers))
    at = data.draw(st.integers(0, len(layers)))
    name = str(at)
    if at < len(layers) and layers[at] == "inner" and data.draw(st.booleans()):
        name = f"{at}.1"
        cast("nn.Sequential", net[at])[1] = made("Noisy")
    else:
        net.insert(at, made("Noisy"))
    with pytest.raises(UserCodeError, match=rf"'{name}' \(Noisy\) draws random numbers"):
        check(lambda: net)


def weights(*values: float) -> "nn.Module":
    import torch
    from torch import nn

    layer = nn.Linear(len(values), 1, bias=False)
    layer.weight.data = torch.tensor([values])
    return layer


def test_a_factory_that_draws_its_weights_elsewhere_is_refused_by_the_weight() -> None:
    with pytest.raises(UserCodeError, match="makes other weights each time it is called: 'weight' differs"):
        check_factory(weights(0.5, 1.0), weights(0.25, 1.0), "m:build")


def test_weights_that_are_the_same_and_not_numbers_are_the_same() -> None:
    check_factory(weights(np.nan, np.inf), weights(np.nan, np.inf), "m:build")
    with pytest.raises(UserCodeError, match="'weight' differs"):
        check_factory(weights(np.nan, np.inf), weights(1.0, np.inf), "m:build")
