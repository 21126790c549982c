"""Encoder and decoder against plain torch convolutions and hand-written losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels import encoders
from worldmodels.decoders import Decoder, ImageDecoder, UpsampleConv
from worldmodels.distributions import symexp, symlog
from worldmodels.encoders import Conv, Encoder, ImageEncoder, vector_input
from worldmodels.envs.spec import ObsSpec


def norm_silu(x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm over the channels of [N, C, h, w], then SiLU."""
    x = x / (x.square().mean(1, keepdim=True) + 1e-4).sqrt() * weight.view(1, -1, 1, 1)
    return x * torch.sigmoid(x)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_convolution_init():
    """fan_in = 25 c_in; zero biases."""
    conv = Conv(16, 64)
    assert float(conv.weight.detach().std()) == pytest.approx(1 / math.sqrt(25 * 16), rel=0.03)
    assert conv.bias is not None
    assert not conv.bias.any()


@pytest.mark.parametrize("shape", [(64, 64, 3), (16, 32, 1)])
def test_image_encoder(shape):
    """conv 5x5 -> pool 2x2 -> norm -> SiLU, four times, on x / 255 - 0.5; tokens h, w, c."""
    model = ImageEncoder(shape, depth=2).double()
    for norm in model.norms:
        torch.nn.init.normal_(norm.weight)  # type: ignore[arg-type]
    image = random_images(3, *shape)
    x = image.double().permute(0, 3, 1, 2) / 255 - 0.5
    for conv, norm, channels in zip(model.convs, model.norms, (4, 6, 8, 8), strict=True):
        x = F.conv2d(x, conv.weight, conv.bias, padding=2)  # type: ignore[arg-type]
        x = norm_silu(F.max_pool2d(x, 2), norm.weight)  # type: ignore[arg-type]
        assert x.shape[1] == channels
    expected = x.permute(0, 2, 3, 1).flatten(1)
    assert expected.shape[1] == model.output_size == shape[0] // 16 * (shape[1] // 16) * 8
    found = model.float()(image)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_encoder_sorts_its_parts_and_transforms_vectors():
    """Tokens: the image's, then one MLP of planes (0 and 1) and vectors (symlog) by name."""
    specs = {
        "zeta": ObsSpec((3,), "vector"),
        "image": ObsSpec((16, 16, 3), "image"),
        "planes": ObsSpec((2, 2, 1), "planes"),
    }
    encoder = Encoder(specs, depth=2, units=8, layers=2)
    obs = {
        "zeta": torch.randn(4, 3) * 100,
        "image": random_images(4, 16, 16, 3),
        "planes": torch.rand(4, 2, 2, 1) > 0.5,
    }
    tokens = encoder(obs)
    assert tokens.shape == (4, encoder.output_size) == (4, 8 + 8)
    flat = torch.cat([obs["planes"].float().flatten(1), symlog(obs["zeta"])], 1)
    assert encoder.mlp is not None
    expected = torch.cat([encoder.images[0](obs["image"]), encoder.mlp(flat)], 1)
    torch.testing.assert_close(tokens, expected)
    assert vector_input(obs["planes"], specs["planes"]).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("c_in", "c_out", "size"), [(3, 5, (4, 4)), (8, 1, (1, 3)), (2, 2, (5, 1))]
)
def test_upsample_conv_is_nearest_upsampling_then_5x5(c_in, c_out, size):
    layer = UpsampleConv(c_in, c_out).double()
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, c_in, *size, dtype=torch.float64).requires_grad_()
    plain = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=2)
    found = layer(x)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(plain)
    learned = [x, layer.weight, layer.bias]
    grads = torch.autograd.grad((found * weight).sum(), learned)
    expected = torch.autograd.grad((plain * weight).sum(), learned)
    for one, two in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_image_decoder():
    """a) h through 8 blocks, '(g h w c) -> h w (g c)'; b) z through an MLP; then up four times."""
    model = ImageDecoder((32, 16, 3), deter=16, stoch=6, depth=4, units=5).double()
    for p in model.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p)
    h, z = torch.randn(2, 16, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    blocks = torch.block_diag(*model.from_h.weight.chunk(8, 1))
    a = h @ blocks + model.from_h.bias  # [2, 8 blocks * 2 * 1 * 2 channels]
    spatial = torch.zeros(2, 2, 1, 16, dtype=torch.float64)
    for g in range(8):
        for row in range(2):
            for c in range(2):
                spatial[:, row, 0, 2 * g + c] = a[:, g * 4 + row * 2 + c]
    x = norm_silu(
        (spatial + model.from_z(z).view(2, 2, 1, 16)).permute(0, 3, 1, 2), model.norm.weight
    )
    for conv, norm in zip(model.convs, model.norms, strict=True):
        x = F.interpolate(x, scale_factor=2)
        x = F.conv2d(x, conv.weight, conv.bias, padding=2)  # type: ignore[arg-type]
        x = norm_silu(x, norm.weight)  # type: ignore[arg-type]
    x = F.interpolate(x, scale_factor=2)
    expected = F.conv2d(x, model.final.weight, model.final.bias, padding=2).permute(0, 2, 3, 1)
    assert expected.shape == (2, 32, 16, 3)
    torch.testing.assert_close(model(h, z), expected, rtol=1e-9, atol=1e-9)


@pytest.fixture
def decoder_case():
    specs = {
        "image": ObsSpec((16, 16, 3), "image"),
        "planes": ObsSpec((3, 2, 2), "planes"),
        "vector": ObsSpec((4,), "vector"),
    }
    decoder = Decoder(specs, deter=8, stoch=6, depth=2, units=8, layers=1)
    n = 11
    obs = {
        "image": random_images(n, 16, 16, 3),
        "planes": torch.rand(n, 3, 2, 2) > 0.5,
        "vector": torch.randn(n, 4) * 50,
    }
    return decoder, torch.randn(n, 8), torch.randn(n, 2, 3), obs


def test_decoder_losses(decoder_case):
    """Sums over an observation: squared error on [0, 1], cross-entropy, squared symlog error."""
    decoder, h, z, obs = decoder_case
    losses = decoder.loss(h, z, obs)
    raw = {key: x.detach().double() for key, x in decoder(h, z).items()}
    pixel = 1 / (1 + torch.exp(-raw["image"]))
    error = (pixel - obs["image"].double() / 255) ** 2
    p, y = 1 / (1 + torch.exp(-raw["planes"])), obs["planes"].double()
    entropy = -(y * p.log() + (1 - y) * (1 - p).log())
    v = obs["vector"].double()
    gap = (raw["vector"] - torch.sign(v) * torch.log(1 + v.abs())) ** 2
    expected = {"image": error, "planes": entropy, "vector": gap}
    assert losses.keys() == expected.keys()
    for key, terms in expected.items():
        assert losses[key].dtype == torch.float32
        wanted = terms.flatten(1).sum(1)
        torch.testing.assert_close(losses[key].detach().double(), wanted, rtol=1e-4, atol=1e-5)


def test_decoder_predicts_in_the_units_of_the_observation(decoder_case):
    decoder, h, z, _ = decoder_case
    raw = decoder(h, z)
    found = decoder.predict(raw)
    for key in ("image", "planes"):
        assert 0 <= found[key].min() <= found[key].max() <= 1
        torch.testing.assert_close(found[key], torch.sigmoid(raw[key]))
    torch.testing.assert_close(found["vector"], symexp(raw["vector"]))


def test_chunks_change_nothing(decoder_case, monkeypatch):
    """Images pass a few at a time on a CPU; the values and gradients are those of one pass."""
    decoder, h, z, obs = decoder_case
    encoder = ImageEncoder((16, 16, 3), depth=2)
    results = []
    for images in (1000, 4, 1):
        monkeypatch.setattr(encoders, "CPU_IMAGES", images)
        tokens = encoder(obs["image"])
        losses = decoder.loss(h, z, obs)
        total = tokens.square().sum() + torch.stack(list(losses.values())).square().sum()
        learned = [*encoder.parameters(), *decoder.parameters()]
        results.append([tokens, *losses.values(), *torch.autograd.grad(total, learned)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            scale = float(one.detach().abs().max())
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5 * max(1.0, scale))


def test_pixels_are_divided_before_the_network():
    """uint8 must not reach the network unscaled: full white is 0.5, black -0.5."""
    seen = []
    encoder = ImageEncoder((16, 16, 1), depth=2)
    encoder.convs[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 16, 16, 1))
    assert seen[0][0].unique().tolist() == [-0.5]
    assert seen[0][1].unique().tolist() == [0.5]
