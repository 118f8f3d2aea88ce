"""The price against its formula, in every way that a training may take."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from sj_shortcut import (
    ShortcutLoss,
    ShortcutSchedule,
    ShortcutWarning,
    SpikePrice,
    gradient_flow,
    remove_price,
    remove_shortcuts,
    wrap_with_shortcuts,
)
from sj_shortcut.price.rates import rates_behind
from tests.behaviour.test_waits import Waits
from tests.gradients.tools import hooks_on
from tests.nets.small import Net, StatelessNet, images, labels
from tests.price.tools import LAYERS, SHARES, WHOLE, batch, net, price_by_hand, rates_by_hand, run
from tests.ranks import on_ranks
from tests.refusals import refused

every_mode = pytest.mark.parametrize("mode", ["m", "s"])


def priced(model: nn.Module, price: SpikePrice, x: torch.Tensor, mode: str = "m") -> torch.Tensor:
    found = price(run(model, x, mode))
    functional.reset_net(model)
    return found


@every_mode
def test_it_is_its_formula_with_the_gradient_through_the_surrogates(mode: str) -> None:
    model, (x, _), (other, _) = net(mode), batch(1), batch(2)
    price = SpikePrice(model, factor=0.5, strength=3.0)
    assert price.targets is None and price.shares is None and price.rates is None
    own = {name: float(rate) for name, rate in rates_by_hand(net(mode), x, mode).items()}
    first = priced(model, price, x, mode)
    targets = {name: 0.5 * max(rate, 0.05) for name, rate in own.items()}
    assert price.targets == pytest.approx(targets) and price.rates == pytest.approx(own)
    assert price.shares == pytest.approx({n: each / WHOLE for n, each in SHARES.items()})
    assert float(first) == pytest.approx(
        3 * float(price_by_hand(rates_by_hand(model, x, mode), targets))
    )
    assert float(first) > 0
    second = priced(model, price, other, mode)
    want = 3 * price_by_hand(rates_by_hand(model, other, mode), targets)
    assert float(second) == pytest.approx(float(want), rel=1e-5)
    ours = torch.autograd.grad(second, model.layer1[0].weight)
    theirs = torch.autograd.grad(want, model.layer1[0].weight)
    assert torch.allclose(*ours, *theirs, rtol=1e-4, atol=1e-7) and ours[0].abs().sum() > 0
    assert price.targets == pytest.approx(targets)  # which stay those of the first batch


def test_the_first_batch_is_free_and_so_is_firing_less() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model)
    assert float(priced(model, price, x)) == pytest.approx(0, abs=1e-9)
    louder = priced(model, price, 3 * x)
    assert float(louder) > 0
    for name in LAYERS:
        model.get_submodule(name).v_threshold = 1e6
    assert float(priced(model, price, x)) == 0


def test_one_target_for_all() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model, rate=0.1)
    found = priced(model, price, x)
    assert price.targets == pytest.approx(dict.fromkeys(LAYERS, 0.1))
    want = price_by_hand(rates_by_hand(model, x), dict.fromkeys(LAYERS, 0.1))
    assert float(found) == pytest.approx(float(want)) and float(found) > 0


def test_a_target_that_is_changed_counts_from_the_next_batch_on() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model)
    assert float(priced(model, price, x)) == pytest.approx(0, abs=1e-9)
    for name, value in (("factor", 0.5), ("rate", 0.1)):
        setattr(price, name, value)
        found, targets = priced(model, price, x), price.targets
        assert targets is not None and float(found) > 1e-3
        assert float(found) == pytest.approx(float(price_by_hand(rates_by_hand(model, x), targets)))


@pytest.mark.filterwarnings("ignore:.*dead channels")
def test_it_brings_spikes_down_to_the_target() -> None:
    model, (x, _) = net(), batch(samples=32)
    price = SpikePrice(model, factor=0.6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    priced(model, price, x)
    first = price.rates
    for _ in range(60):
        optimizer.zero_grad()
        priced(model, price, x).backward()
        optimizer.step()
    for name in LAYERS:
        assert price.rates[name] < 1.15 * price.targets[name] < first[name]


@every_mode
def test_as_an_argument_of_the_loss(mode: str) -> None:
    (x, y), (other, _) = batch(1), batch(2)
    losses = []
    for price in (False, True):
        model = wrap_with_shortcuts(net(mode))
        criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=price)
        for some in (x, other):
            loss = criterion(run(model, some, mode), y)
            functional.reset_net(model)
        losses.append(loss)
        loss.backward()
        if not price:
            plain = criterion.parts
    parts = criterion.parts
    assert list(parts) == [*plain, "price"] and float(parts["price"]) > 0
    assert float(losses[1]) == pytest.approx(float(losses[0]) + float(parts["price"]))
    assert float(parts["total"]) == pytest.approx(float(losses[1]))
    assert all(float(parts[name]) == float(plain[name]) for name in plain if name != "total")
    model.eval()
    with torch.no_grad():
        output = run(model, x, mode)
        assert float(criterion(output, y)) == float(nn.functional.cross_entropy(output, y))
    assert criterion.parts is parts


def test_the_schedule_is_not_told_of_it() -> None:
    model, (x, y) = wrap_with_shortcuts(net()), batch()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=True)
    criterion(run(model, x), y)
    assert set(criterion.schedule._last) == {("main", "layer1.1", "layer2.1")}


def test_heads_keep_what_they_save_whichever_comes_first() -> None:
    x, y = batch()
    totals = []
    for first in (True, False):
        model = net()
        price = SpikePrice(model, factor=0.5) if first else None
        wrap_with_shortcuts(model)
        price = price or SpikePrice(model, factor=0.5)
        criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=price)
        total = criterion(run(model, x), y)
        total.backward()
        names = [n.split(".", 1)[1] for n, p in model.named_parameters() if p.grad is not None]
        totals.append((float(total), len(names), float(model.layer1[0].weight.grad.sum())))
    assert totals[0] == pytest.approx(totals[1])


@every_mode
def test_it_is_off_in_eval_mode_and_without_gradients(mode: str) -> None:
    model, (x, _) = net(mode), batch()
    price = SpikePrice(model, factor=0.1)
    model.eval()
    assert float(priced(model, price, x, mode)) == 0 and price.targets is None
    model.train()
    with torch.no_grad():
        assert float(priced(model, price, x, mode)) == 0 and price.targets is None
    assert float(priced(model, price, x, mode)) > 0


def test_the_model_computes_what_it_did() -> None:
    model, (x, _) = net(), batch()
    before = run(model, x)
    functional.reset_net(model)
    rng = torch.get_rng_state()
    state = copy.deepcopy(model.state_dict())
    SpikePrice(model)
    assert torch.equal(run(model, x), before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_two_forwards_before_a_loss_are_paired_with_their_outputs() -> None:
    model, (x, _), (other, _) = net(), batch(1), batch(2)
    price = SpikePrice(model, factor=0.5)
    alone = [float(priced(model, price, each)) for each in (x, other)]
    outputs = []
    for each in (x, other):
        outputs.append(run(model, each))
        functional.reset_net(model)
    assert [float(price(output)) for output in outputs] == pytest.approx(alone)
    both = price(torch.cat(outputs))
    whole = priced(model, price, torch.cat([x, other], 1))
    assert float(both) == pytest.approx(float(whole), rel=1e-5)


def test_a_model_that_ends_in_spikes_keeps_no_graph_alive() -> None:
    model = nn.Sequential(nn.Linear(4, 4), neuron.IFNode(), nn.Linear(4, 2), neuron.IFNode())
    price = SpikePrice(model)
    output = model(3 * torch.rand(2, 4))
    price(output).backward()
    known = weakref.ref(rates_behind(output)[0])
    functional.reset_net(model)
    del output
    gc.collect()
    assert known() is None
    assert price.shares == {"1": 1.0, "3": 0.0}


def test_writing_over_the_output_loses_nothing() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model, factor=0.5)
    want = float(priced(model, price, x))
    output = model(x)
    output /= 2
    assert float(price(output.mean(0))) == pytest.approx(want)


def test_under_autocast_and_in_half_precision() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model, factor=0.5)
    want = float(priced(model, price, x))
    with torch.autocast("cpu", torch.bfloat16):
        found = priced(model, price, x)
    assert found.dtype == torch.float32 and float(found) == pytest.approx(want, rel=0.2)
    half = net().to(torch.bfloat16)
    found = priced(half, SpikePrice(half, factor=0.5), x.bfloat16())
    assert found.dtype == torch.float32
    found.backward()
    assert half.layer1[0].weight.grad.isfinite().all()


def test_a_checkpoint_inside_counts_once() -> None:
    class Checkpointed(StatelessNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = checkpoint(self.layer1, x, use_reentrant=False)
            return self.fc(self.layer3(self.layer2(x)))

    torch.manual_seed(0)
    model, (x, _) = StatelessNet(), batch()  # SpikingJelly's own would go on from their memories
    plain = SpikePrice(model, factor=0.5)(run(model, x))
    plain.backward()
    other = Checkpointed()
    other.load_state_dict(model.state_dict())
    price = SpikePrice(other, factor=0.5)
    found = price(run(other, x))
    found.backward()
    assert float(found) == pytest.approx(float(plain))
    assert torch.allclose(other.layer1[0].weight.grad, model.layer1[0].weight.grad)


def test_a_checkpoint_that_keeps_gradients_away_is_told() -> None:
    class Checkpointed(StatelessNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = checkpoint(self.layer1, x.requires_grad_(), use_reentrant=True)
            return self.fc(self.layer3(self.layer2(x)))

    model, (x, _) = Checkpointed(), batch()
    price = SpikePrice(model, factor=0.5)
    with pytest.warns(ShortcutWarning, match=r"'layer1.1' ran without gradients .*use_reentrant=F"):
        price(run(model, x)).backward()
    assert model.layer2[0].weight.grad is not None


def test_where_fan_outs_cannot_be_seen_all_weigh_the_same() -> None:
    class Own(nn.Module):
        """Multiplies where nobody looks for layers with weights."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.ParameterList(torch.rand(4, 4) for _ in range(3))
            self.sn1, self.sn2 = neuron.IFNode(), neuron.IFNode()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.sn2(self.sn1(x @ self.w[0]) @ self.w[1]) @ self.w[2]

    model = Own()
    price = SpikePrice(model)
    price(model(torch.rand(3, 4))).backward()
    assert price.shares == {"sn1": 0.5, "sn2": 0.5}


def test_a_compiled_model_is_told_what_leaves_the_hooks_out() -> None:
    model, (x, _) = StatelessNet(), batch()
    price = SpikePrice(model)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(RuntimeError, match="torch.compile, and a checkpoint .*leave hooks out"):
        price(run(compiled, x))


def train_on_one_rank(rank: int) -> dict:
    model, (x, y) = wrap_with_shortcuts(net()), batch(seed=rank)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=SpikePrice(model, factor=0.5))
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):
        loss = criterion(parallel(x).mean(0), y)
        loss.backward()
        functional.reset_net(model)
    rates = torch.tensor(list(criterion.price.rates.values()))
    targets = torch.tensor(list(criterion.price.targets.values()))
    return {"rates": rates, "targets": targets, "price": criterion.parts["price"]}


def test_processes_share_their_targets(tmp_path) -> None:
    one, other = on_ranks(train_on_one_rank, tmp_path)
    assert torch.equal(one["targets"], other["targets"])
    mean = (one["rates"] + other["rates"]) / 2
    assert not torch.equal(one["rates"], other["rates"])
    assert torch.allclose(one["targets"], 0.5 * mean.clamp(min=0.05))
    assert one["price"] > 0 and other["price"] > 0


def test_a_layer_that_is_left_out_costs_nothing() -> None:
    class Dropping(Net):
        drop = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer1(x)
            return x[..., :4] if self.drop else self.fc(self.layer3(self.layer2(x)))

    model, (x, _) = net(), batch()
    model.__class__ = Dropping
    price = SpikePrice(model, factor=0.5)
    priced(model, price, x)
    whole = price.targets
    model.drop = True
    found = priced(model, price, x)
    assert price.rates["layer3.1"] == 0 and price.targets == whole
    excess = max(0.0, price.rates["layer1.1"] / whole["layer1.1"] - 1) ** 2
    assert float(found) == pytest.approx(SHARES["layer1.1"] / WHOLE * excess)


@pytest.mark.parametrize("replaced", [LAYERS[1:2], LAYERS], ids=["one", "all"])
@pytest.mark.parametrize("mode", ["m", "s"])
def test_a_layer_that_is_replaced_is_told_and_the_advice_works(replaced, mode) -> None:
    model, (x, _) = net(mode), batch()
    price = SpikePrice(model, rate=0.1)
    for name in replaced:
        model.set_submodule(name, neuron.IFNode(step_mode=mode))
    with pytest.warns(ShortcutWarning, match=f"'{replaced[0]}' was replaced after the price"):
        assert priced(model, price, x, mode).isfinite()
    remove_price(model)
    price = SpikePrice(model, rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        priced(model, price, x, mode)
    assert price.rates[replaced[0]] > 0


def test_its_state_goes_on_where_it_was() -> None:
    model, (x, y) = wrap_with_shortcuts(net()), batch()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=True)
    untold = copy.deepcopy(criterion.state_dict())
    criterion(run(model, x), y)
    functional.reset_net(model)
    state = pickle.loads(pickle.dumps(criterion.state_dict()))
    resumed = wrap_with_shortcuts(net(seed=5))
    other = ShortcutLoss(resumed, nn.CrossEntropyLoss(), price=True)
    other.load_state_dict(state)
    assert other.price.targets == criterion.price.targets
    assert other.price.shares == criterion.price.shares
    other(run(resumed, 2 * x), y)
    assert other.price.targets == criterion.price.targets
    other.load_state_dict(untold)
    assert other.price.targets is None
    wrong = SpikePrice(nn.Sequential(neuron.IFNode()))
    message = (
        "the state is of a price on 3 other spiking layers (layer1.1, layer2.1, layer3.1, ...): "
        "load that of the same network."
    )
    with refused(ValueError, message):
        wrong.load_state_dict(criterion.price.state_dict())


def test_a_checkpoint_file_needs_no_code(tmp_path) -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model)
    priced(model, price, x)
    torch.save(price.state_dict(), tmp_path / "price.pt")
    price.load_state_dict(torch.load(tmp_path / "price.pt", weights_only=True))


def test_copies_have_a_price_of_their_own() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model, factor=0.5)
    want = priced(model, price, x)
    twin, theirs = copy.deepcopy((model, price))
    output = run(twin, x)
    assert float(theirs(output)) == pytest.approx(float(want))
    with pytest.raises(RuntimeError, match="comes from another model than the one"):
        price(output)


def test_measuring_leaves_it_alone() -> None:
    model, (x, y) = wrap_with_shortcuts(net()), batch()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=True)
    gradient_flow(model, criterion, (2 * x, y))
    assert criterion.price.targets is None
    frame = gradient_flow(model, criterion, (x, y), by_source=True)
    assert {"main", "layer1.1"} <= set(frame.source)


def test_it_goes_with_the_heads_or_by_itself() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model)
    hooks = hooks_on(model)
    remove_price(model)
    assert hooks_on(model) == hooks_on(net()) < hooks
    with pytest.raises(RuntimeError, match="remove_price and remove_shortcuts take them off"):
        price(run(model, x))
    SpikePrice(model)
    remove_shortcuts(wrap_with_shortcuts(model))
    assert hooks_on(model) == hooks_on(net())
    remove_price(model)


def test_a_loss_that_is_refused_leaves_no_price_behind() -> None:
    class Negative(ShortcutSchedule):
        def __call__(self, epoch: float) -> float:
            return -1.0

    model = wrap_with_shortcuts(net())
    before = hooks_on(model)
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        ShortcutLoss(model, nn.CrossEntropyLoss(), Negative(), price=True)
    assert hooks_on(model) == before
    ShortcutLoss(model, nn.CrossEntropyLoss(), price=True)


def test_what_is_refused() -> None:
    model, (x, _) = net(), batch()
    price = SpikePrice(model)
    with refused(ValueError, "Net has a price on its spikes already: use that one, or call "
                 "remove_price(model) first."):  # fmt: skip
        SpikePrice(model)
    with refused(ValueError, "Linear has no spiking layer to put a price on: name your own classes "
                 "of neurons with neuron_types=."):  # fmt: skip
        SpikePrice(nn.Linear(2, 2))
    for name, value in (("strength", -1), ("factor", 0), ("rate", float("nan"))):
        with pytest.raises(ValueError, match=f"{name} must be finite and"):
            SpikePrice(net(), **{name: value})
        with pytest.raises(TypeError, match=f"{name} must be a number, got 'x'"):
            SpikePrice(net(), **{name: "x"})
    with refused(ValueError, "factor= is of the untrained rates, and rate= is instead of them."):
        SpikePrice(net(), factor=0.5, rate=0.2)
    other = wrap_with_shortcuts(net())
    with refused(ValueError, "price is a SpikePrice of another model: make one for this model."):
        ShortcutLoss(other, nn.CrossEntropyLoss(), price=price)
    with pytest.raises(
        TypeError, match=r"price must be True, False or a SpikePrice\(model\), got 1"
    ):
        ShortcutLoss(other, nn.CrossEntropyLoss(), price=1.0)
    assert hooks_on(other) == hooks_on(wrap_with_shortcuts(net()))
    with pytest.raises(RuntimeError, match="does not come from a forward pass of the model"):
        price(nn.Linear(8, 2)(x))


@pytest.mark.filterwarnings("ignore::sj_shortcut.ShortcutWarning")
@every_mode
def test_a_step_waits_for_no_value(mode: str) -> None:
    model = wrap_with_shortcuts(net(mode))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = images(), labels()

    def step() -> None:
        optimizer.zero_grad()
        criterion(run(model, x, mode), y).backward()
        optimizer.step()
        functional.reset_net(model)

    for _ in range(3):
        step()
    with Waits() as waits:
        for _ in range(66):  # looks at channels among them
            step()
    assert not waits.found


class Kernels(TorchDispatchMode):
    """Counts what computes."""

    views = ("view", "detach", "expand", "t", "transpose", "unsqueeze", "alias", "select", "unbind")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1].lstrip("_").removeprefix("unsafe_")
        self.count += name not in self.views
        return func(*args, **(kwargs or {}))


def kernels_of_a_step(depth: int, price: bool) -> int:
    torch.manual_seed(0)
    parts = [part for _ in range(depth) for part in (nn.Linear(8, 8), neuron.IFNode())]
    model = nn.Sequential(*parts, nn.Linear(8, 4))
    toll = SpikePrice(model, factor=0.5) if price else None
    x, y = 4 * torch.rand(3, 8), torch.arange(3)
    for _ in range(3):
        functional.reset_net(model)
        with Kernels() as kernels:
            output = model(x)
            loss = nn.functional.cross_entropy(output, y)
            (loss if toll is None else loss + toll(output)).backward()
    return kernels.count


def test_it_takes_two_kernels_a_layer_and_few_more() -> None:
    few = kernels_of_a_step(4, True) - kernels_of_a_step(4, False)
    many = kernels_of_a_step(12, True) - kernels_of_a_step(12, False)
    assert many - few == 2 * 8  # a sum, and adding its gradient
    assert few - 2 * 4 <= 17


def test_no_warning_where_all_is_well() -> None:
    model, (x, _) = net(), batch(samples=16)
    price = SpikePrice(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShortcutWarning)
        for _ in range(70):
            priced(model, price, x)
