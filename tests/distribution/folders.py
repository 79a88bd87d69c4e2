"""Small folders of pictures, recordings and shapes."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

RANDOM = np.random.default_rng(0)


def pictures(folder: Path, n: int = 24, size: tuple[int, int] = (20, 14)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        pixels = np.full((size[1], size[0], 3), 5 * k % 256, dtype=np.uint8)
        pixels[:, : size[0] // 2, 0] = 250
        Image.fromarray(pixels).save(folder / f"{k:03}.png")
    return folder


def recordings(folder: Path, n: int = 24, rate: int = 16000, seconds: float = 1.2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    at = np.arange(int(rate * seconds)) / rate
    for k in range(n):
        soundfile.write(folder / f"{k:03}.wav", 0.5 * np.sin(2 * np.pi * (220 + 10 * k) * at), rate)
    return folder


def shapes(folder: Path, n: int = 24, points: int = 300) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        cloud = RANDOM.normal(size=(points, 3)) * (1 + k % 3, 1, 0.2) + 5
        np.save(folder / f"{k:03}.npy", cloud)
    return folder
