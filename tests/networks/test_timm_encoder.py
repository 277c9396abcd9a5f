import pytest
import timm
import torch
from safetensors.torch import save_file

from dlka_med.networks import timm_encoder
from dlka_med.networks.timm_encoder import TimmEncoder

FAMILIES = (
    "convnext_atto",
    "resnet18",
    "maxvit_rmlp_pico_rw_256",
    "mobilenetv4_conv_small",
    "swin_tiny_patch4_window7_224",
)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_maps_are_what_channels_and_strides_say(name, channels):
    encoder = TimmEncoder(name, channels, (64, 96)).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(2, channels, 64, 96))
    assert encoder.strides == (4, 8, 16, 32)
    assert [tuple(y.shape) for y in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_built_that_never_runs(name):
    encoder = TimmEncoder(name, 1, (64, 64))
    sum(y.square().mean() for y in encoder(torch.randn(2, 1, 64, 64))).backward()
    assert [n for n, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_the_deepest_map_of_maxvit_passes_the_final_norm():
    encoder = TimmEncoder("maxvit_rmlp_pico_rw_256", 3, (64, 64)).eval()
    whole = timm.create_model("maxvit_rmlp_pico_rw_256", img_size=64).eval()
    whole.load_state_dict(encoder.model.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image)[-1], whole.forward_features(image))


def test_windows_follow_the_size():
    encoder = TimmEncoder("maxvit_rmlp_pico_rw_256", 3, (50, 96))
    assert encoder.size_unit == (64, 96)
    assert {m.partition_size for m in encoder.modules() if hasattr(m, "partition_size")} == {(2, 3)}
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 128, 192))[0].shape == (1, 32, 32, 48)
    assert TimmEncoder("swin_tiny_patch4_window7_224", 3, (64, 64)).size_unit == (32, 32)
    assert TimmEncoder("resnet18", 3, (50, 96)).size_unit == (32, 32)


def test_a_backbone_of_one_size_says_so():
    encoder = TimmEncoder("coatnet_pico_rw_224", 3, (64, 64)).eval()
    with torch.no_grad():
        assert len(encoder(torch.zeros(1, 3, 64, 64))) == 4
    with pytest.raises(ValueError, match=r"takes images of \(64, 64\) at most, got \(128, 64\)"):
        encoder(torch.zeros(1, 3, 128, 64))


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match="no model called 'convnex_atto'; did you mean 'convnext_atto'"):
        TimmEncoder("convnex_atto")


def test_too_few_maps():
    with pytest.raises(ValueError, match="expected a backbone with 4 feature maps, but 'nest_tiny' has 3"):
        TimmEncoder("nest_tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "inception_v4",
            r"stride 4 of 'inception_v4' has the shape \(160, 30, 30\) instead of \(160, 32, 32\)",
        ),
        ("legacy_xception", r"stride 4 of 'legacy_xception' has the shape \(128, 31, 31\)"),
        ("crossvit_tiny_240", r"the strides \(12, 17, 17, 17\) of the maps of 'crossvit_tiny_240' are no multiples"),
    ],
)
def test_maps_that_lie_on_no_grid_of_the_image(name, message):
    with pytest.raises(ValueError, match=message + ".*choose another encoder"):
        TimmEncoder(name, 1, (240, 240))


def test_trying_the_maps_leaves_no_trace():
    torch.manual_seed(0)
    encoder = TimmEncoder("resnet18", 2, (64, 64))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    model = timm.create_model("resnet18", in_chans=2, num_classes=0)
    assert torch.equal(torch.rand(1), drawn)
    assert all(module.training for module in encoder.modules())
    state = encoder.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if key in state)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(1)
    return timm.create_model("convnext_atto").state_dict()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_pretrained_weights(weights, tmp_path, nested, channels):
    file = tmp_path / ("w.pth" if nested else "w.safetensors")
    if nested:
        torch.save({"state_dict": weights, "epoch": 1}, file)
    else:
        save_file(weights, file)
    encoder = TimmEncoder("convnext_atto", channels, pretrained=str(file))
    state = encoder.model.state_dict()
    for name, value in state.items():
        summed = name == "stem.0.weight" and channels == 1
        torch.testing.assert_close(value, weights[name].sum(1, keepdim=True) if summed else weights[name])
    assert "state_dict" not in encoder.model.pretrained_cfg


def test_a_file_of_another_backbone(weights, tmp_path):
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w.safetensors holds no weights of 'resnet18' .*the first: conv1.weight"):
        TimmEncoder("resnet18", pretrained=tmp_path / "w.safetensors")
    wide = {name: value.repeat_interleave(2, 0) for name, value in weights.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        ValueError,
        match=r"wide.safetensors does not fit 'convnext_atto': size mismatch for stem.0.weight: .*40, 3, 4, 4..\.$",
    ):
        TimmEncoder("convnext_atto", pretrained=tmp_path / "wide.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        TimmEncoder("resnet18", pretrained="none.pth")


def test_pretrained_without_a_network_says_what_to_do(monkeypatch):
    build = timm.create_model

    def offline(name, pretrained=False, **arguments):
        if pretrained:
            raise FileNotFoundError("An error happened while trying to locate the file on the Hub")
        return build(name, **arguments)

    monkeypatch.setattr(timm_encoder.timm, "create_model", offline)
    with pytest.raises(RuntimeError, match=r"weights of 'resnet18' cannot be downloaded .*pretrained=PATH"):
        TimmEncoder("resnet18", pretrained=True)


def test_pretrained_where_timm_has_nothing():
    with pytest.raises(ValueError, match="offers no weights for 'swinv2_cr_tiny_224'"):
        TimmEncoder("swinv2_cr_tiny_224", img_size=(64, 64), pretrained=True)


def test_a_backbone_without_a_norm_for_its_maps():
    encoder = TimmEncoder("sam2_hiera_tiny", 1, (64, 64)).eval()
    with torch.no_grad():
        assert [y.shape[1] for y in encoder(torch.zeros(1, 1, 64, 96))] == list(encoder.channels)
