"""The user's own folders: what is read, what is kept, and what is said of a file that cannot be read."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image as Picture

from flowport.distribution import AudioFolder, CloudFolder, ImageFolder
from flowport.errors import FlowportError
from flowport.metric.sound import autocorrelation_pitch
from flowport.modality import ComplexSTFT, LogMel
from flowport.randomness import Randomness
from tests.distribution.folders import pictures, recordings, shapes


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")


def test_pictures_are_squares_of_bytes_in_order_of_names(tmp_path):
    data = ImageFolder(str(pictures(tmp_path / "p")), size=8)
    assert data.event_shape == (3, 8, 8) and data.raw.shape == (24, 3, 8, 8)
    assert data.raw[:, 2, 0, 0].tolist() == [5 * k for k in range(24)]
    assert int(data.raw[3, 0, 4, 0]) == 250 and int(data.raw[3, 0, 4, 7]) == 15
    assert ImageFolder(str(tmp_path / "p"), size=8, channels=1).event_shape == (1, 8, 8)
    parts = [data.split(p).size for p in ("train", "validation", "test")]
    assert parts == [20, 2, 2]


def test_pictures_stand_upright(tmp_path):
    folder = pictures(tmp_path / "p", size=(8, 8))
    with Picture.open(folder / "001.png") as picture:
        exif = picture.getexif()
        exif[0x0112] = 6  # the camera was turned: the right of the file is the bottom of the picture
        picture.rotate(90).save(folder / "001.png", exif=exif)
    data = ImageFolder(str(folder), size=8)
    assert data.raw[1, 0, 0].tolist() == 4 * [250] + 4 * [5], "as it was before it was turned"


def test_what_is_louder_than_files_can_be_is_clipped(tmp_path):
    folder = recordings(tmp_path / "r", rate=8000)
    wave = np.linspace(-2, 2, 8192)
    soundfile.write(folder / "000.wav", wave, 8000, subtype="FLOAT")
    heard = AudioFolder(str(folder)).raw[0]
    assert torch.equal(
        heard,
        torch.from_numpy(wave.astype(np.float32) * np.float32(32767)).clamp(-32767, 32767).round().to(torch.int16),
    )


def test_recordings_are_mixed_down_resampled_and_cut_into_clips_of_one_split(tmp_path):
    folder = recordings(tmp_path / "r", n=12, seconds=2.2)
    wave, rate = soundfile.read(folder / "000.wav")
    soundfile.write(folder / "stereo.flac", np.stack([wave, 0 * wave], 1), rate)
    data = AudioFolder(str(folder))
    assert data.raw.shape == (13 * 3, 8192) and data.event_shape == (1, 64, 32)
    assert data.length[:3].tolist() == [8192, 8192, 17600 - 2 * 8192], "the tail is kept"
    heard = 440 * 2 ** autocorrelation_pitch(data.raw[:36:3] / 32768, 8000)
    torch.testing.assert_close(heard, 220 + 10 * torch.arange(12).double(), rtol=1e-3, atol=0)
    ratio = data.raw[36].float().norm() / data.raw[0].float().norm()
    assert float(ratio) == pytest.approx(0.5, rel=1e-2)
    home = {int(i) // 3: name for name, rows in data.splits.items() for i in rows}
    assert all(home[int(i) // 3] == name for name, rows in data.splits.items() for i in rows)
    short = recordings(tmp_path / "s", n=12, seconds=0.5)
    assert int(AudioFolder(str(short)).raw[:, 4200:].abs().max()) == 0, "filled up with silence"


def test_recordings_may_keep_their_phase(tmp_path):
    data = AudioFolder(str(recordings(tmp_path / "r")), modality=ComplexSTFT(rate=4000, window=256, hop=64))
    assert data.event_shape == (2, 128, 128)
    assert torch.equal(data.modality.decode(data.draw(torch.arange(5), None).x), data.raw[data.index[:5]])
    heard = 440 * 2 ** autocorrelation_pitch(data.raw / 32768, 4000)
    torch.testing.assert_close(heard, 220 + 10 * torch.arange(24).double(), rtol=1e-3, atol=0)


def test_clouds_are_centred_scaled_and_resampled_by_training_only(tmp_path):
    data = CloudFolder(str(shapes(tmp_path / "c")), points=64, stored=200)
    assert data.event_shape == (3, 64)
    torch.testing.assert_close(data.raw.square().mean((1, 2)), torch.ones(24), rtol=1e-4, atol=0)
    assert float(data.raw.mean(1).abs().max()) < 1e-5
    one = torch.zeros(1, dtype=torch.long)
    a, b = (data.draw(one, torch.Generator().manual_seed(k)).x for k in (0, 1))
    assert not torch.equal(a, b) and torch.equal(data.draw(one, None).x, data.draw(one, None).x)
    stored = data.raw[data.index[0]]
    assert {tuple(p) for p in a[0].T.tolist()} < {tuple(p) for p in stored.tolist()}
    turned = (
        CloudFolder(str(tmp_path / "c"), points=200, stored=200, rotate=True)
        .draw(one, torch.Generator().manual_seed(0))
        .x
    )
    torch.testing.assert_close(torch.linalg.svdvals(turned[0]), torch.linalg.svdvals(stored.T), rtol=1e-4, atol=0)
    assert float((turned[0] - stored.T).square().mean()) > 0.1


def test_points_are_kept_from_all_over_a_cloud_and_repeated_where_there_are_too_few(tmp_path):
    folder = shapes(tmp_path / "c", n=20)
    half = np.ones((500, 3))
    np.save(folder / "000.npy", np.concatenate([-half, half]))
    np.savez(folder / "001.npz", other=np.zeros((30, 3)), points=np.arange(90).reshape(30, 3))
    (folder / "001.npy").unlink()
    two, few = CloudFolder(str(folder), points=10, stored=70).raw[:2]
    counts = two[:, 0].unique(return_counts=True)[1]
    assert len(counts) == 2 and abs(int(counts[0]) - 35) < 4.5 * (70 * 0.25) ** 0.5
    assert sorted(few[:, 0].unique(return_counts=True)[1].tolist()) == 20 * [2] + 10 * [3]
    np.savez(folder / "002.npz", a=np.ones((30, 3)), b=np.zeros((30, 3)))
    with pytest.raises(FlowportError, match="it holds a, b: write key="):
        CloudFolder(str(folder), points=10, stored=70)


def test_meshes_are_sampled_by_area(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (tmp_path / "m").mkdir()
    for k in range(12):
        trimesh.creation.box((1, 1, 1 + k)).export(tmp_path / "m" / f"{k:02}.ply")
    data = CloudFolder(str(tmp_path / "m"), points=500, stored=4000)
    tall = data.raw[11]
    top = float((tall[:, 2] > tall[:, 2].max() - 1e-4).float().mean())
    assert top == pytest.approx(1 / 50, abs=0.012)


def test_sub_folders_are_classes(tmp_path):
    for name in ("b", "a"):
        pictures(tmp_path / "two" / name, n=15)
    data = ImageFolder(str(tmp_path / "two"), size=8)
    assert data.classes == 2 and data.labels.tolist() == [0] * 15 + [1] * 15


def test_what_was_decoded_is_kept_by_content(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "p")
    first = ImageFolder(str(folder), size=8)
    monkeypatch.setattr("flowport.distribution.picture_files.ImageOps.fit", None)
    again = ImageFolder(str(folder), size=8)
    assert torch.equal(first.raw, again.raw)
    with pytest.raises(FlowportError, match="cannot be read"):
        ImageFolder(str(folder), size=9)
    cache = next((tmp_path / "cache").glob("*.safetensors"))
    half = cache.read_bytes()[:100]
    cache.unlink()  # its pages are in use; flowport itself only ever moves a whole file over it
    cache.write_bytes(half)
    monkeypatch.undo()
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")
    assert torch.equal(ImageFolder(str(folder), size=8).raw, first.raw), "a damaged cache is made anew"
    Picture.new("RGB", (9, 9), (1, 2, 3)).save(folder / "000.png")
    assert not torch.equal(ImageFolder(str(folder), size=8).raw[0], first.raw[0])


def broken(folder, kind):
    if kind == "truncated":
        whole = (folder / "003.png").read_bytes()
        (folder / "003.png").write_bytes(whole[: len(whole) // 2])
        return "003.png"
    if kind == "text":
        (folder / "readme.wav").write_text("not a sound")
        return "readme.wav"
    if kind in ("unheard", "endless"):
        wave = np.full(9000 * (kind == "endless"), np.inf)
        soundfile.write(folder / f"{kind}.wav", wave, 8000, subtype="FLOAT")
        return f"{kind}.wav"
    if kind == "point":
        np.save(folder / "point.npy", np.full((30, 3), 7.0))
        return "point.npy"
    if kind == "nan":
        np.save(folder / "bad.npy", np.full((30, 3), np.nan))
        return "bad.npy"
    if kind == "shape":
        np.save(folder / "flat.npy", np.zeros((30, 2)))
        return "flat.npy"
    np.save(folder / "code.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return "code.npy"


@pytest.mark.parametrize(
    ("make", "kind", "member"),
    [
        (pictures, "truncated", ImageFolder),
        (recordings, "text", AudioFolder),
        (recordings, "unheard", AudioFolder),
        (recordings, "endless", AudioFolder),
        (shapes, "nan", CloudFolder),
        (shapes, "shape", CloudFolder),
        (shapes, "point", CloudFolder),
        (shapes, "pickle", CloudFolder),
    ],
)
def test_a_bad_file_is_named_or_left_out(make, kind, member, tmp_path, caplog):
    folder = make(tmp_path / "data")
    name = broken(folder, kind)
    with pytest.raises(FlowportError, match=rf"{name}.*cannot be read.*skip_bad_files=true"):
        member(str(folder))
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = member(str(folder), skip_bad_files=True)
        assert len(set(data.names)) == len(data.raw)
        assert sum("#" not in name for name in data.names) == (23 if kind == "truncated" else 24)
        assert name in caplog.text and "left out" in caplog.text
    with pytest.raises(FlowportError, match=name):
        member(str(folder))


def test_folders_with_nothing_to_learn_from(tmp_path):
    with pytest.raises(FlowportError, match="is not a folder"):
        ImageFolder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlowportError, match=r"holds no \.png"):
        ImageFolder(str(tmp_path / "empty"))
    with pytest.raises(FlowportError, match="at least 10"):
        ImageFolder(str(pictures(tmp_path / "few", n=4)))
    with pytest.raises(FlowportError, match="shorter than the window"):
        AudioFolder(str(tmp_path), samples=100)


def test_a_file_that_disappears_while_training_is_not_missed(tmp_path):
    folder = recordings(tmp_path / "r")
    data = AudioFolder(str(folder), modality=LogMel())
    before = data.items(0, 6, Randomness(0)).x
    for file in folder.iterdir():
        file.unlink()
    assert torch.equal(data.items(0, 6, Randomness(0)).x, before)
