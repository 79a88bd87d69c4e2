"""Files of shapes: point clouds, meshes of which points are drawn by area, and named arrays."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowport.distribution.files import Files, MissingPackage, Reading
from flowport.errors import Count

ARRAYS = ("points", "vertices", "xyz", "pos", "x", "data")
"""Names of the points in an .npz file that holds several arrays, in order of preference."""

LARGEST = 1e30
"""Largest coordinate that is understood: squares of larger ones are no numbers of single precision."""


class CloudFiles(Files):
    """Shapes as clouds of ``stored`` points, centred, with a mean square coordinate of 1: (1, stored, 3) float32.

    An array holds points (N, 3). From a mesh, which needs the extra ``meshes``, points are drawn uniformly by area;
    where it has no faces, its vertices are the points.

    Args:
        stored: Number of points.
        key: Name of the points in .npz files; None for points, vertices, xyz, pos, x or data, or the only array
            (N, 3).
    """

    kind: ClassVar[str] = "shapes"
    suffixes = (".npy", ".npz", ".ply", ".off", ".obj", ".stl")
    unread: ClassVar[dict[str, str]] = dict.fromkeys(
        (".fbx", ".blend", ".glb", ".gltf", ".3ds", ".dae"), "save them as obj or ply first"
    )
    packages: ClassVar[dict[str, str]] = {"numpy": "numpy", "trimesh": "trimesh"}
    plain = ".npy"
    rewritten: ClassVar[dict[str, str]] = {".off": ".ply", ".obj": ".ply", ".stl": ".ply"}

    def __init__(self, stored: Count = 1024, key: str | None = None) -> None:
        self.stored, self.key = stored, key

    def options(self) -> dict[str, Any]:
        return {"stored": self.stored, "key": self.key}

    def read(self, path: Path) -> Reading:
        suffix = path.suffix.lower()
        if suffix in (".npy", ".npz"):
            points = self._array(path)
        else:
            points = _surface(path, self.stored)
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
            raise ValueError(f"it holds an array {points.shape}, not points (N, 3)")
        if points.dtype.kind not in "fiu":
            raise ValueError(f"it holds {points.dtype} values, not real numbers")
        if not np.isfinite(points).all():
            raise ValueError("it holds NaN or infinite values")
        if np.abs(points.astype(np.float64)).max() > LARGEST:
            raise ValueError(
                f"its coordinates reach {np.abs(points.astype(np.float64)).max():.3g}; at most {LARGEST:g}"
            )
        draw = torch.Generator().manual_seed(0)  # the choice of points is the same in every run
        rounds = -(-self.stored // len(points))
        rows = torch.cat([torch.randperm(len(points), generator=draw) for _ in range(rounds)])
        points = points[rows[: self.stored].numpy()].astype(np.float64)
        centre = points.mean(0)
        spread = float(np.sqrt(((points - centre) ** 2).mean()))
        if not spread > 1e-9 * float(np.abs(points).max()):
            raise ValueError("all its points are equal: it has no size")
        return Reading(((points - centre) / spread).astype(np.float32)[None], centre=centre, scale=spread)

    def _array(self, path: Path) -> NDArray[Any]:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return held
        shaped = [name for name in held.files if held[name].ndim == 2 and held[name].shape[1] == 3]
        name = self.key or next((n for n in ARRAYS if n in shaped), shaped[0] if len(shaped) == 1 else None)
        if name is None or name not in held.files:
            raise ValueError(
                f"it holds {', '.join(held.files) or 'nothing'}: write key=<the name of its points (N, 3)>"
            )
        return held[name]

    def write(self, raw: Tensor, path: Path, suffix: str, reading: Reading) -> None:
        points = raw.cpu().double().numpy() * reading.scale + reading.centre
        if suffix in (".npy", ".npz"):
            with path.open("wb") as file:
                np.save(file, points) if suffix == ".npy" else np.savez(file, points=points)
            return
        import trimesh

        path.write_bytes(trimesh.PointCloud(points).export(file_type="ply"))


def _surface(path: Path, stored: int) -> NDArray[Any]:
    try:
        import trimesh
    except ModuleNotFoundError:
        raise MissingPackage("meshes need the package trimesh: pip install 'flowport[meshes]'") from None
    logging.getLogger("trimesh").setLevel(logging.WARNING)
    loaded: Any = trimesh.load(path, process=False, skip_materials=True)  # materials may name other files
    parts: list[Any] = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [part for part in parts if len(getattr(part, "faces", ())) > 0]
    if not meshes:
        points = [np.asarray(part.vertices) for part in parts if len(getattr(part, "vertices", ())) > 0]
        if not points:
            raise ValueError("it has neither faces nor vertices")
        return np.concatenate(points)
    mesh: Any = trimesh.util.concatenate(meshes)
    if not np.isfinite(mesh.vertices).all():
        raise ValueError("it holds NaN or infinite values")
    if not mesh.area > 1e-12 * float(np.ptp(mesh.vertices, axis=0).max()) ** 2:
        raise ValueError("its faces have no area")
    return np.asarray(trimesh.sample.sample_surface(mesh, stored, seed=0)[0])
