"""Networks that are files: input description, class map, output, and the refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.networks.class_map import ChannelSum
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.networks.onnx_runner import CPU, CUDA, OnnxRunner
from rmrkd_cli.networks.torchscript_runner import TorchScriptRunner
from tests.helpers.network_files import Tiny, weights, write_onnx, write_torchscript

HALF = {"mean": [127.5] * 3, "std": [127.5] * 3}
NAMES = ("sky", "road", "tree")


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny network of four channels, as either file."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "onnx":
        return OnnxRunner(write_onnx(folder / "tiny.onnx", scale=1.0))
    return TorchScriptRunner(write_torchscript(folder / "tiny.pt", Tiny(scale=1.0)))


def pixels(batch: int = 2, height: int = 6, width: int = 10) -> Tensor:
    """Return images of values 0 to 255, RGB."""
    return torch.randint(0, 256, (batch, 3, height, width), generator=torch.Generator().manual_seed(0)).float()


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(NORMALIZE[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def expected(images: Tensor) -> Tensor:
    return torch.einsum("kc,bchw->bkhw", torch.from_numpy(weights(4)), images)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_images_are_given_in_the_files_normalization_and_colours(runner: Any, color: str) -> None:
    images = pixels()
    network = FileNetwork(runner, given={"mean": [10, 20, 30], "std": [50, 60, 70], "color": color})
    own = images.flip(1) if color == "bgr" else images
    own = (own - torch.tensor([10.0, 20, 30]).view(1, 3, 1, 1)) / torch.tensor([50.0, 60, 70]).view(1, 3, 1, 1)
    assert torch.allclose(network(normalized(images)), expected(own), atol=1e-4)
    assert network.num_classes == 4
    assert not list(network.parameters())
    assert not network.train().training


def test_without_a_description_images_are_normalized_as_by_rmrkd(runner: Any) -> None:
    images = normalized(pixels())
    assert torch.equal(FileNetwork(runner)(images), runner.run(images))
    bgr = FileNetwork(runner, given={"color": "bgr"})
    assert torch.allclose(bgr(images), expected(images.flip(1)), atol=1e-4)


def test_images_are_resized_to_the_size_of_the_input(runner: Any) -> None:
    images = pixels()
    network = FileNetwork(runner, given={**HALF, "size": [12, 15]})
    resized = nn.functional.interpolate(images, (12, 15), mode="bilinear", align_corners=False) / 127.5 - 1
    assert torch.allclose(network(normalized(images)), expected(resized), atol=1e-4)


def test_only_the_shape_is_computed_on_meta(runner: Any) -> None:
    out = FileNetwork(runner)(torch.zeros(2, 3, 8, 9, device="meta"))
    assert (out.shape, out.device.type) == ((2, 4, 8, 9), "meta")


def test_the_output_can_be_used_in_a_loss_and_the_network_be_copied(runner: Any) -> None:
    network = copy.deepcopy(FileNetwork(runner, classes=[0, 1, 1, 0], num_classes=2))
    images = normalized(pixels())
    student = torch.randn(2, 2, 6, 10, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        teacher = network(images)
    assert (teacher.dtype, teacher.requires_grad) == (torch.float32, False)
    (student * teacher).sum().backward()
    assert torch.equal(student.grad, teacher)


def test_probabilities_of_channels_of_one_class_are_summed(runner: Any) -> None:
    """Channel 3 is ignored: the others sum to one without it."""
    images = normalized(pixels())
    shares = runner.run(images).softmax(1)
    merged = torch.stack([shares[:, 1], shares[:, 0] + shares[:, 2]], 1) / (1 - shares[:, 3:])
    got = FileNetwork(runner, classes=[1, 0, 1, "ignore"], num_classes=2)(images)
    assert torch.allclose(got.exp(), merged, atol=1e-5)
    assert torch.allclose(got.softmax(1), got.exp(), atol=1e-6)  # the softmax of a loss changes nothing


def test_a_class_map_never_returns_infinite_numbers() -> None:
    """Also where the ignored channel has all of the probability, and where a class has none."""
    sums = ChannelSum([0, 1, None], 2)
    logits = torch.tensor([500.0, -500.0, 2000.0]).view(1, 3, 1, 1)
    out = sums(logits).flatten()
    assert torch.isfinite(out).all()
    assert out.exp().tolist() == pytest.approx([1, 0])


def test_probabilities_become_logits(tmp_path: Path) -> None:
    after = [helper.make_node("Softmax", ["logits"], ["shares"], axis=1)]
    path = write_onnx(tmp_path / "p.onnx", after=after, output=("shares", TensorProto.FLOAT, ("n2", 4, "h2", "w2")))
    network = FileNetwork(OnnxRunner(path), output="probabilities")
    images = normalized(pixels())
    assert torch.allclose(network(images).softmax(1), OnnxRunner(path).run(images), atol=1e-6)
    mapped = FileNetwork(OnnxRunner(path), output="probabilities", classes=[0, 0, 1, 1], num_classes=2)
    assert torch.allclose(mapped(images).exp()[:, 0], OnnxRunner(path).run(images)[:, :2].sum(1), atol=1e-6)


def test_logits_are_not_taken_for_probabilities(runner: Any) -> None:
    with pytest.raises(RmrkdError, match="does not return probabilities") as caught:
        FileNetwork(runner, output="probabilities")
    assert caught.value.hint == "write `output: logits` in the preset, or --output logits"


def softmax(path: Path, operator: str = "Softmax", channels: int = 4, **attributes: int) -> OnnxRunner:
    """Return a file that ends with an activation."""
    after = [helper.make_node(operator, ["logits"], ["shares"], **attributes)]
    shape = ("n2", channels, "h2", "w2")
    return OnnxRunner(write_onnx(path, channels, after=after, output=("shares", TensorProto.FLOAT, shape)))


def test_probabilities_are_not_taken_for_logits(tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match="returns probabilities, not logits: the channels of every pixel") as caught:
        FileNetwork(softmax(tmp_path / "p.onnx", axis=1), classes=[0, 0, 1, 1], num_classes=2)
    assert caught.value.hint == "write `output: probabilities` in the preset, or --output probabilities"


def test_a_sigmoid_for_each_class_gives_no_probabilities(tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match="does not return probabilities") as caught:
        FileNetwork(softmax(tmp_path / "s.onnx", "Sigmoid"), output="probabilities")
    assert "ends with a sigmoid for each class" in caught.value.hint


def test_the_probability_of_one_channel_decides_between_two_classes(tmp_path: Path) -> None:
    runner = softmax(tmp_path / "s.onnx", "Sigmoid", 1)
    images = normalized(pixels())
    shares = FileNetwork(runner, output="probabilities")(images).softmax(1)
    assert torch.allclose(shares[:, 1:], runner.run(images), atol=1e-5)
    with pytest.raises(RmrkdError, match=r"has 1 channel, which decides between 2 classes, the data set has 3"):
        FileNetwork(runner, output="probabilities", num_classes=3)


# Class maps that are wrong, and the message.
WRONG_MAPS = [
    ([0, 1, 2], "the class map has 3 entries, `{file}` has 4 channels"),
    ([0, 1, 1, 0], "no channel of `{file}` maps to the class `tree`: nothing would teach it"),
    ([0, 0, 0, "ignore"], "no channel of `{file}` maps to the classes `road`, `tree`: nothing would teach them"),
    ([0, 1, 2, 3], "channel 3 maps to `3`, which is no class of the data set"),
    ([0, 1, 2, "trees"], "channel 3 maps to `trees`, which is no class of the data set"),
    ({"sky": 0}, "`{file}` declares no class names, so its channels cannot be mapped by name"),
    (None, "`{file}` has 4 channels, the data set has 3 classes; the file declares no class names"),
]


@pytest.mark.parametrize(("classes", "message"), WRONG_MAPS)
def test_wrong_class_maps_are_refused(runner: Any, classes: Any, message: str) -> None:
    with pytest.raises(RmrkdError) as caught:
        FileNetwork(runner, classes=classes, num_classes=3, class_names=NAMES)
    assert caught.value.message == message.format(file=runner.file)
    assert caught.value.hint


def test_channels_are_mapped_by_the_names_in_the_file(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "n.onnx", 3, metadata={"names": "{0: 'Road', 1: 'Bush', 2: 'Sky'}"})
    runner, images = OnnxRunner(path), normalized(pixels())
    by_name = FileNetwork(runner, classes={"road": "road", "bush": "tree", "sky": 0}, num_classes=3, class_names=NAMES)
    assert by_name.class_map == (1, 2, 0)
    assert torch.allclose(by_name(images).exp()[:, 0], runner.run(images).softmax(1)[:, 2], atol=1e-6)
    for classes, message in (
        ({"road": 1, "bush": 2, "sk": 0}, f"`{path}` has no class `sk`, did you mean `Sky`?"),
        ({"road": 1, "bush": 2}, f"the class map has 2 entries, `{path}` has 3 channels: `sky` is missing"),
    ):
        with pytest.raises(RmrkdError) as caught:
            FileNetwork(runner, classes=classes, num_classes=3, class_names=NAMES)
        assert caught.value.message.casefold() == message.casefold()
    with pytest.raises(RmrkdError, match="in another order: channel 0 is `road`, class 0 is `sky`"):
        FileNetwork(runner, num_classes=3, class_names=("sky", "road", "bush"))
    named = FileNetwork(runner, num_classes=3, class_names=("road", "bush", "car")).describe()
    assert "1 of its class names differ from the data set's, such as channel 2, `Sky` and `car`" in named
    assert "differ" not in FileNetwork(runner, num_classes=3, class_names=("road", "bush", "sky")).describe()
    assert "differ" not in by_name.describe()


# Input descriptions that contradict the file or cannot be right, and the message.
WRONG_INPUTS = [
    ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, "numbers below 1 are for images from 0 to 1"),
    ({"mean": [0, 0, 0], "std": [1, 0, 1]}, "every number must be above 0"),
]


@pytest.mark.parametrize(("given", "message"), WRONG_INPUTS)
def test_impossible_input_descriptions_are_refused(runner: Any, given: Any, message: str) -> None:
    with pytest.raises(RmrkdError, match=message):
        FileNetwork(runner, given=given)


def test_a_fixed_size_and_batch_are_kept(tmp_path: Path) -> None:
    """Images are resized to the file's size, and given one by one."""
    path = write_onnx(tmp_path / "f.onnx", shape=(1, 3, 8, 12))
    network, images = FileNetwork(OnnxRunner(path), given=HALF), pixels(3)
    resized = nn.functional.interpolate(images, (8, 12), mode="bilinear", align_corners=False) / 127.5 - 1
    assert torch.allclose(network(normalized(images)), 0.01 * expected(resized), atol=1e-5)
    with pytest.raises(RmrkdError, match=r"the input size 9x12 does not fit .*, which takes 8x12"):
        FileNetwork(OnnxRunner(path), given={"size": [9, 12]})
    half = write_onnx(tmp_path / "h.onnx", shape=("n", 3, 8, "w"))
    with pytest.raises(RmrkdError, match="takes 8xany"):
        FileNetwork(OnnxRunner(half))


def test_a_batch_size_is_filled_with_repeated_images(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "b.onnx", shape=(2, 3, "h", "w"))
    images = normalized(pixels(5))
    assert torch.allclose(OnnxRunner(path).run(images), 0.01 * expected(images), atol=1e-5)


def test_channels_may_be_last(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "l.onnx", shape=("n", "h", "w", 3))
    images = normalized(pixels())
    assert torch.allclose(FileNetwork(OnnxRunner(path))(images), 0.01 * expected(images), atol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_precisions_of_the_input_are_converted(tmp_path: Path, kind: int) -> None:
    path, images = write_onnx(tmp_path / "k.onnx", kind=kind), normalized(pixels())
    assert torch.allclose(FileNetwork(OnnxRunner(path))(images), 0.01 * expected(images), atol=1e-3)


def test_a_uint8_file_gets_the_pixels_of_the_image(tmp_path: Path) -> None:
    path, images = write_onnx(tmp_path / "u.onnx", kind=TensorProto.UINT8), pixels()
    network = FileNetwork(OnnxRunner(path))
    assert network.source.raw
    assert torch.allclose(network(normalized(images)), 0.01 * expected(images), atol=1e-4)
    with pytest.raises(RmrkdError, match="normalizes them itself, but a mean or std is given"):
        FileNetwork(OnnxRunner(path), given=HALF)


def test_the_metadata_of_an_exported_file_describes_its_input(tmp_path: Path) -> None:
    own = {"normalized_inside": False, "channels": "RGB", "mean": [1.0, 2, 3], "std": [4.0, 5, 6]}
    path = write_onnx(tmp_path / "e.onnx", 2, metadata={"preprocessing": json.dumps(own), "classes": '["no", "yes"]'})
    network = FileNetwork(OnnxRunner(path))
    assert (network.source.mean, network.source.std, network.names) == ((1, 2, 3), (4, 5, 6), ("no", "yes"))
    classes = write_onnx(tmp_path / "c.onnx", metadata={"output": '"classes"'})
    with pytest.raises(RmrkdError, match="returns the class of each pixel"):
        FileNetwork(OnnxRunner(classes))


def test_a_file_with_one_channel_has_two_classes(tmp_path: Path) -> None:
    decision = json.dumps("class 1 where the sigmoid of the logit exceeds 0.3")
    path = write_onnx(tmp_path / "b.onnx", 1, metadata={"decision": decision})
    network, images = FileNetwork(OnnxRunner(path)), normalized(pixels())
    probability = OnnxRunner(path).run(images)[:, 0].sigmoid()
    assert network.num_classes == 2
    assert torch.equal(network(images).argmax(1), (probability > 0.3).long())


def test_files_without_maps_of_classes_are_refused(tmp_path: Path) -> None:
    argmax = [helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0)]
    path = write_onnx(tmp_path / "a.onnx", after=argmax, output=("classes", TensorProto.INT64, ("n2", "h2", "w2")))
    with pytest.raises(RmrkdError, match=r"its output is `classes` tensor\(int64\)") as caught:
        OnnxRunner(path)
    assert "--output logits" in caught.value.hint
    mean = [helper.make_node("ReduceMean", ["logits"], ["scores"], axes=[2, 3], keepdims=0)]
    path = write_onnx(tmp_path / "c.onnx", after=mean, output=("scores", TensorProto.FLOAT, ("n2", 4)))
    with pytest.raises(RmrkdError, match=r"its output is `scores` tensor\(float\)") as caught:
        OnnxRunner(path)
    assert "the map of logits" in caught.value.hint
    grey = write_onnx(tmp_path / "g.onnx", shape=("n", 5, "h", "w"))
    with pytest.raises(RmrkdError, match="its input has 5 channels, an image has 3"):
        OnnxRunner(grey)

    class Argmax(Tiny):
        def forward(self, image: Tensor) -> Tensor:
            return self.conv(image).argmax(1)

    with pytest.raises(RmrkdError, match="it returns int64"):
        FileNetwork(TorchScriptRunner(write_torchscript(tmp_path / "a.pt", Argmax())))

    class Vector(Tiny):
        def forward(self, image: Tensor) -> Tensor:
            return self.conv(image).mean((2, 3))

    with pytest.raises(RmrkdError, match=r"returns \(1, 4\), but a teacher must give"):
        FileNetwork(TorchScriptRunner(write_torchscript(tmp_path / "v.pt", Vector())))


def test_a_size_that_the_file_cannot_run_is_named(tmp_path: Path) -> None:
    class Fixed(Tiny):
        def forward(self, image: Tensor) -> Tensor:
            return self.conv(image) + torch.zeros(1, 4, 6, 10)

    path = write_torchscript(tmp_path / "x.pt", Fixed())
    with pytest.raises(RmrkdError, match="cannot process images of 128x128") as caught:
        FileNetwork(TorchScriptRunner(path))
    assert "as the size of its input" in caught.value.hint
    assert caught.value.exit_code == 2
    assert FileNetwork(TorchScriptRunner(path), given={"size": [6, 10]})(pixels()).shape == (2, 4, 6, 10)


def test_the_first_of_several_outputs_is_taken(tmp_path: Path) -> None:
    class Several(Tiny):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            logits = self.conv(image)
            return {"aux": logits * 2, "out": logits}

    images = normalized(pixels())
    got = FileNetwork(TorchScriptRunner(write_torchscript(tmp_path / "d.pt", Several())))(images)
    assert torch.allclose(got, 0.01 * expected(images), atol=1e-5)


def test_outputs_are_chosen_by_name(tmp_path: Path) -> None:
    class Edges(Tiny):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"seg": self.conv(image), "edges": image}

    class Only(Tiny):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"seg": self.conv(image)}

    with pytest.raises(RmrkdError, match="returns several outputs, `seg`, `edges`, and none of them is called `out`"):
        FileNetwork(TorchScriptRunner(write_torchscript(tmp_path / "e.pt", Edges())))
    images = normalized(pixels())
    got = FileNetwork(TorchScriptRunner(write_torchscript(tmp_path / "o.pt", Only())))(images)
    assert torch.allclose(got, 0.01 * expected(images), atol=1e-5)


def test_missing_packages_are_named_with_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmrkd_cli.networks.onnx_runner.find_spec", lambda name: None if name == "onnxruntime" else 1)
    with pytest.raises(RmrkdError, match="packages that are not installed: onnxruntime") as caught:
        OnnxRunner(write_onnx(tmp_path / "m.onnx"))
    assert caught.value.hint == install_extra_command("export")


@pytest.mark.parametrize("available", [[CPU], [CUDA, CPU]])
def test_a_gpu_is_used_where_onnxruntime_has_it(
    available: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This onnxruntime has none: it must fall back to the CPU, also where loading CUDA's libraries fails."""
    path, asked = write_onnx(tmp_path / "g.onnx"), []
    real = onnxruntime.InferenceSession

    def session(file: str, options: Any, providers: list[Any]) -> Any:
        asked.append([name for name, _ in providers])
        if providers[0][0] == CUDA:
            raise RuntimeError("libcudnn.so.9: cannot open shared object file")
        return real(file, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    runner = OnnxRunner(path, "cuda")
    assert runner.provider == CPU
    assert asked == ([[CUDA, CPU], [CPU]] if CUDA in available else [[CPU]])
    assert np.isfinite(runner.run(pixels()).numpy()).all()
