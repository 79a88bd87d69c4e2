"""A CLIP model on disk: its own logit, through a resize that has a gradient."""

import json

import pytest
import torch

from flowport.distribution import Stored
from flowport.errors import FlowportError
from flowport.modality import FloatImage, Image
from flowport.reward import CLIPScore, DecodedReward
from flowport.types import Condition

transformers = pytest.importorskip("transformers", reason="needs the extra clip")
NOTHING = Condition()
MEAN, SPREAD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random CLIPModel with a tokenizer of letters."""
    path = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (path / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    tokenizer.save_pretrained(path)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**size, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": SPREAD}))
    return path


def points(n=4, channels=3, size=8):
    x = torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))
    return (0.3 * x).clamp(-0.9, 0.9)


def test_it_is_the_logit_that_the_model_itself_gives(folder):
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("a red fox", return_tensors="pt")
    x = points()
    shown = ((x + 1) / 2 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]
    expected = model(pixel_values=shown, **tokens).logits_per_image[:, 0].detach()
    value = CLIPScore(str(folder), "a red fox").value(x, NOTHING)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    other = CLIPScore(str(folder), "zebra").value(x, NOTHING)
    assert float((other - value).abs().max()) > 0.1


def test_a_sentence_for_each_class_scores_each_image_by_that_of_its_class(folder):
    x, prompts = points(), ["fox", "a red fox", "zebra"]
    label = torch.tensor([2, 0, 1, 2])
    reward = CLIPScore(str(folder), prompts=prompts)
    singles = torch.stack([CLIPScore(str(folder), prompt).value(x, NOTHING) for prompt in prompts])
    torch.testing.assert_close(
        reward.value(x, Condition(label)), singles.gather(0, label[None])[0], rtol=1e-4, atol=1e-4
    )
    assert float((singles[0] - singles[2]).abs().max()) > 0.1
    for told, sentence in ((None, "it is told none"), (torch.tensor([0, 1, 2, 3]), "no sentence for class 3, only 3")):
        with pytest.raises(FlowportError, match=sentence):
            reward.value(x, Condition(told))
    law = Stored("classes", points(), torch.tensor([0, 1, 0, 1]), FloatImage(), {"train": torch.arange(4)}, classes=2)
    with pytest.raises(FlowportError, match=r"has 3 sentences, .* the data have 2 classes"):
        reward.check(law, law)
    for options in ({}, {"prompt": "fox", "prompts": prompts}, {"prompts": []}):
        with pytest.raises(FlowportError, match=r"needs one of reward\.prompt"):
            CLIPScore(str(folder), **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_passes_through_the_resize(folder, channels):
    reward = CLIPScore(str(folder), "a red fox")
    reward.double()
    x = points(2, channels, 12).double()
    gradient = reward.value_and_gradient(x, NOTHING)[1]
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    differences = reward.value(x + 1e-6 * along, NOTHING) - reward.value(x - 1e-6 * along, NOTHING)
    torch.testing.assert_close(differences / 2e-6, (gradient * along).flatten(1).sum(1), rtol=1e-5, atol=1e-6)
    seen = DecodedReward(reward, Image()).value(x, NOTHING)
    torch.testing.assert_close(seen, reward.value(x, NOTHING))


def test_other_images_are_refused(folder):
    parts = {"train": torch.arange(4)}
    reward = CLIPScore(str(folder), "fox")
    bright = Stored("bright", points(), None, FloatImage(0.0, 1.0), parts)
    two = Stored("two", points(channels=2), None, FloatImage(), parts)
    reward.check(two, Stored("fine", points(), None, FloatImage(), parts))
    for target, sentence in ((bright, r"have 3 and go from 0\.0 to 1\.0"), (two, "have 2 and go from -1")):
        with pytest.raises(FlowportError, match=sentence):
            reward.check(target, target)


def test_a_folder_without_a_model_or_without_safetensors_is_refused(folder, tmp_path):
    with pytest.raises(FlowportError, match=r"reward\.path=.* is not a folder"):
        CLIPScore(str(tmp_path / "missing"), "fox")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(transformers.CLIPModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FlowportError, match="holds no CLIPModel with safetensors"):
        CLIPScore(str(tmp_path), "fox")
