"""Averages beside their definition, a <- d a + (1 - d) x, in float64."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from star_edge.training.averaging import MovingAverage  # noqa: E402

DECAY = 0.9


class Net(nn.Module):
    """BatchNorm whose statistics move, one whose statistics are over all batches, and a buffer that is no statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.input_norm = nn.BatchNorm1d(3, momentum=None)
        self.register_buffer("mask", torch.ones(4, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(self.input_norm(x))) * self.mask


def test_weights_and_statistics_are_averaged_and_other_buffers_are_the_models() -> None:
    torch.manual_seed(0)
    model = Net().double()
    average = MovingAverage(model, DECAY)
    names = ["layer.weight", "layer.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    expected: dict[str, torch.Tensor] = {}
    for step in range(5):
        model(torch.randn(8, 3, dtype=torch.float64))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model.mask[step % 4] = False
        average.update_parameters(model)
        now = {name: model.state_dict()[name].clone() for name in names}
        expected = {name: DECAY * expected[name] + (1 - DECAY) * now[name] for name in names} if expected else now
    found = average.module.state_dict()
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)
    assert torch.equal(found["mask"], model.mask)
    assert found["norm.num_batches_tracked"] == 5
    assert torch.equal(found["input_norm.running_var"], model.input_norm.running_var)


def test_an_average_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    model = Net()
    one, other = MovingAverage(model, DECAY), MovingAverage(model, DECAY)
    for _ in range(3):
        model(torch.randn(8, 3))
        one.update_parameters(model)
    other.load_state_dict(one.state_dict())
    model(torch.randn(8, 3))
    for average in (one, other):
        average.update_parameters(model)
    for name, value in one.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[name])
