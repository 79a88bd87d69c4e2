"""Clouds and meshes: what is a shape, what is none, and back to files in the place and size of the original."""

import numpy as np
import pytest
import torch

from flowport.distribution import CloudFiles

RANDOM = np.random.default_rng(0)


def test_points_only_files_are_clouds(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    trimesh.PointCloud(RANDOM.normal(size=(300, 3))).export(tmp_path / "a.ply")
    (tmp_path / "b.obj").write_text("".join(f"v {x} {y} {z}\n" for x, y, z in RANDOM.normal(size=(50, 3))))
    for name in ("a.ply", "b.obj"):
        items = CloudFiles(128).read(tmp_path / name).items
        assert items.shape == (1, 128, 3) and np.isfinite(items).all()
        assert float((items**2).mean()) == pytest.approx(1, rel=1e-5)


def test_shapes_of_several_parts_are_read_whole(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    parts = [trimesh.creation.box((1, 1, 1)).apply_translation((10 * k, 0, 0)) for k in range(2)]
    trimesh.util.concatenate(parts).export(tmp_path / "a.obj")
    x = CloudFiles(1000).read(tmp_path / "a.obj").items[0][:, 0]
    assert 0.4 < float((x > 0).mean()) < 0.6


@pytest.mark.parametrize("suffix", ["ply", "stl", "off", "obj"])
def test_a_surface_without_area_is_named(suffix, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    flat.export(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match="no area"):
        CloudFiles(64).read(tmp_path / f"a.{suffix}")


def test_what_is_no_shape_is_named(tmp_path):
    pytest.importorskip("trimesh")
    np.save(tmp_path / "a.npy", np.full((9, 3), 2.0))
    (tmp_path / "b.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "c.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n")
    np.save(tmp_path / "d.npy", 1e200 * RANDOM.normal(size=(9, 3)))
    np.save(tmp_path / "e.npy", RANDOM.normal(size=(9, 3)) * 1j)
    np.save(tmp_path / "f.npy", RANDOM.normal(size=(9, 3)) > 0)
    told_of = {"a.npy": "equal", "b.obj": "NaN", "c.ply": "", "d.npy": "reach", "e.npy": "complex", "f.npy": "bool"}
    for name, told in told_of.items():
        with pytest.raises(Exception, match=told):
            CloudFiles(64).read(tmp_path / name)


def test_named_arrays(tmp_path):
    points, normals = RANDOM.normal(size=(40, 3)), RANDOM.normal(size=(40, 3))
    np.savez(tmp_path / "a.npz", normals=normals, points=points)
    np.savez(tmp_path / "b.npz", mine=points, faces=np.zeros((5, 4)))
    np.savez(tmp_path / "c.npz", left=points, right=normals)
    given = {"a": None, "b": None, "c": "left"}
    a, b, c = (CloudFiles(40, key).read(tmp_path / f"{name}.npz").items for name, key in given.items())
    assert np.array_equal(a, b) and np.array_equal(a, c)
    with pytest.raises(ValueError, match="it holds left, right: write key="):
        CloudFiles(40).read(tmp_path / "c.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".ply"])
def test_clouds_are_written_where_and_as_large_as_they_were(suffix, tmp_path):
    if suffix == ".ply":
        pytest.importorskip("trimesh")
    files, points = CloudFiles(50), 7 * RANDOM.normal(size=(50, 3)) + (100, 0, -5)
    np.save(tmp_path / "a.npy", points)
    reading = files.read(tmp_path / "a.npy")
    files.write(torch.from_numpy(reading.items[0]), tmp_path / f"b{suffix}", suffix, reading)
    again = files.read(tmp_path / f"b{suffix}")
    order = [np.lexsort(r.items[0].round(3).T) for r in (reading, again)]
    assert np.abs(reading.items[0][order[0]] - again.items[0][order[1]]).max() < 1e-2
    assert np.allclose(again.centre, points.mean(0), atol=1e-3) and again.scale == pytest.approx(
        reading.scale, rel=1e-4
    )
    assert files.written(".stl") == ".ply" and files.written(".npz") == ".npz"
