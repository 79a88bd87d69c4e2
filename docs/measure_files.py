"""Measures translated files against the files of two folders, for docs/guides/own_data.md.

    python docs/measure_files.py pictures <source> <target> <translated> [<translated by independent coupling>]
    python docs/measure_files.py speech   <source> <target> <translated>
    python docs/measure_files.py clouds   <run> <translated>
    python docs/measure_files.py pairs    <run of data.pool=all or auto>

The files of <translated> are those that were held out: ``flowport translate run=… part=test points=100000
output=<translated>``, and the same with ``part=validation overwrite=true``. Intervals are 95 % of a bootstrap over
files, paired where two numbers of one file are compared.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.fft import dct
from scipy.signal import resample_poly

from flowport.cost import ChamferCost
from flowport.data.agreement import class_names, partners
from flowport.distribution import CloudFiles, ImageFolder, PictureFiles
from flowport.distribution.folder import listed
from flowport.evaluation.classifier_training import trained_classifier
from flowport.metric.clouds import nearest_neighbour_accuracy
from flowport.metric.preservation import predicted
from flowport.modality.log_mel import mel_filters
from flowport.run.build import classifiers
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.types import Sample

SIZE, DRAWS = 32, 10_000


def interval(values, statistic=np.mean):
    """Estimate and 95 % interval by resampling files."""
    values = np.asarray(values, dtype=float)
    rows = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(statistic(values[rows], axis=1), [0.025, 0.975])
    return f"{statistic(values, axis=0):.3f} [{low:.3f}, {high:.3f}]"


def by_stem(folder, suffixes):
    return {str(Path(name).with_suffix("")): Path(folder) / name for name in listed(folder, suffixes).names}


def shared(folders, suffixes):
    """Names that all folders hold, and the files of every folder by name."""
    files = [by_stem(folder, suffixes) for folder in folders]
    names = sorted(set.intersection(*map(set, files)))
    return names, files


def pictures(source, target, *translated):
    labels = ["untranslated", "flow", "independent"][: 1 + len(translated)]
    names, files = shared([target, source, *translated], PictureFiles.suffixes)
    print(f"{len(names)} held-out pictures with a partner")
    rms = {}
    for background in ("black", "white", "checker"):
        reader = PictureFiles(SIZE, background=background)
        seen = [np.stack([reader.read(held[n]).items[0] for n in names]) / 255.0 for held in files]
        for label, images in zip(labels, seen[1:], strict=True):
            rms[background, label] = np.sqrt(np.square(images - seen[0]).mean((1, 2, 3)))
    kept = preserved(target, names, files[1:])
    table = {f"rms to the partner on {b}": {n: rms[b, n] for n in labels} for b in ("black", "white", "checker")}
    table["class kept"] = dict(zip(labels, kept, strict=True))
    for key, values in table.items():
        for label in labels:
            print(f"{key:32} {label:14} {interval(values[label])}")
        for other in [label for label in labels if label != "flow"]:
            print(f"{key:32} flow - {other:14} {interval(values['flow'] - values[other])}")


def preserved(target, names, sides):
    """Whether a classifier of the target's other pictures finds the class of the source picture."""
    data = ImageFolder(target, SIZE)
    out = {str(Path(n).with_suffix("")): k for k, n in enumerate(data.names)}
    held = torch.tensor([out[n] for n in names])
    train = torch.tensor(sorted(set(range(len(data.raw))) - set(held.tolist())))
    data = data.with_splits({"train": train, "validation": held, "test": held})
    classifier, facts = trained_classifier(data.split("train"), data.split("test"), classifiers())
    known = class_names(data)
    wanted = torch.tensor([known.index(n.split("/")[0]) for n in names])
    print(f"classifier: {facts['accuracy']:.3f} of the real target pictures (ceiling)")
    reader, found = PictureFiles(SIZE), []
    for files in sides:
        raw = torch.from_numpy(np.concatenate([reader.read(files[n]).items for n in names]))
        found.append((predicted(classifier, data.modality.encode(raw, None)) == wanted).double().numpy())
    return found


RATE, WINDOW, HOP = 8000, 256, 80


def heard(path):
    wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
    return wave.mean(1) if rate == RATE else resample_poly(wave.mean(1), RATE, rate)


def framed(wave, length=WINDOW):
    wave = np.pad(wave, (0, max(0, length - len(wave))))
    return wave[np.arange(length)[None] + HOP * np.arange(1 + (len(wave) - length) // HOP)[:, None]]


def level(wave):
    """Level of the frames within 30 dB of the loudest, dB."""
    power = np.square(framed(wave)).mean(1)
    return 10 * np.log10(power[power > 1e-3 * power.max()].mean() + 1e-20)


def pitches(wave, low=60, high=400, length=512, threshold=0.15):
    """F0 of voiced frames, Hz (YIN: de Cheveigné and Kawahara 2002, doi:10.1121/1.1458024)."""
    shortest, longest = RATE // high, RATE // low + 1
    x = framed(wave, length + longest)
    power = np.square(x[:, :length]).mean(1)
    x = x[power > 1e-2 * max(power.max(), 1e-12)]
    lags = np.stack([np.square(x[:, :length] - x[:, t : t + length]).sum(1) for t in range(longest + 1)], 1)
    mean = np.cumsum(lags[:, 1:], 1) / np.arange(1, longest + 1)
    ratio = np.concatenate([np.ones((len(x), 1)), lags[:, 1:] / np.maximum(mean, 1e-12)], 1)
    found = []
    for row in ratio:
        below = np.flatnonzero(row[shortest:longest] < threshold)
        if len(below):
            t = shortest + below[0]
            while t + 1 < longest and row[t + 1] < row[t]:
                t += 1
            a, b, c = row[t - 1], row[t], row[t + 1]
            curve = a - 2 * b + c
            found.append(RATE / (t + (0.5 * (a - c) / curve if curve > 0 else 0)))
    return np.array(found)


FILTERS = mel_filters(26, WINDOW // 2 + 1, RATE, 60.0, RATE / 2).numpy()


def trimmed(wave):
    power = np.square(framed(wave)).mean(1)
    loud = np.flatnonzero(power > 10**-3.5 * power.max())
    return wave[loud[0] * HOP : loud[-1] * HOP + WINDOW]


def mfcc(wave):
    """Mel-frequency cepstral coefficients 1 to 13 of the trimmed recording, (frames, 13)."""
    wave = trimmed(wave)
    x = framed(np.append(wave[0], wave[1:] - 0.97 * wave[:-1])) * np.hanning(WINDOW)
    energy = np.maximum(np.square(np.abs(np.fft.rfft(x, WINDOW))) @ FILTERS.T, 1e-20)
    return dct(np.log(np.maximum(energy, 1e-6 * energy.max())), norm="ortho", axis=1)[:, 1:14]


def time_warped(one, many):
    """Dynamic time warping distance of one sequence to many, (len(many),): symmetric weights 1, 2, 1, by both lengths.

    Sakoe and Chiba 1978, doi:10.1109/TASSP.1978.1163055.
    """
    x = torch.from_numpy(one)
    longest = max(map(len, many))
    y = torch.stack([torch.nn.functional.pad(torch.from_numpy(m), (0, 0, 0, longest - len(m))) for m in many])
    cost = torch.cdist(x.expand(len(many), -1, -1), y)  # (n, A, B)
    n, a, b = cost.shape
    infinite = torch.full((n, a + 1), torch.inf, dtype=cost.dtype)
    before, last = infinite.clone(), infinite.clone()  # the two diagonals before, shifted by one row
    ends = torch.tensor([len(m) for m in many]) - 1
    result = torch.empty(n, dtype=cost.dtype)
    for k in range(a + b - 1):
        rows = torch.arange(max(0, k - b + 1), min(a - 1, k) + 1)
        here, now = cost[:, rows, k - rows], infinite.clone()
        straight = torch.minimum(last[:, rows + 1], last[:, rows]) + here
        now[:, rows + 1] = 2 * here if k == 0 else torch.minimum(straight, before[:, rows] + 2 * here)
        done = ends == k - (a - 1)
        result[done] = now[done, a]
        before, last = last, now
    return (result / (a + ends + 1)).numpy()


def ranks(sequences, partners):
    """Rank of the true partner of every sequence among all, 1 for the nearest, ties by half."""
    table = np.stack([time_warped(one, partners) for one in sequences])
    true = np.diag(table)[:, None]
    return table, 1 + (table < true).sum(1) + 0.5 * ((table == true).sum(1) - 1)


def speech(source, target, translated):
    suffixes = (".wav", ".flac")
    names, files = shared([target, source, translated], suffixes)
    target_waves, source_waves, made = ([heard(held[n]) for n in names] for held in files)
    same = [soundfile.info(f[n]).duration for f in files[1:] for n in names]
    print(f"{len(names)} held-out names; durations equal: {np.allclose(same[: len(names)], same[len(names) :])}")
    for label, waves in (("target", target_waves), ("untranslated", source_waves), ("flow", made)):
        voiced = [pitches(w) for w in waves]
        rows = np.random.default_rng(0).integers(0, len(waves), (300, len(waves)))
        spread = np.quantile([np.median(np.concatenate([voiced[k] for k in row])) for row in rows], [0.025, 0.975])
        full = np.mean([np.abs(w).max() >= 32766 / 32768 for w in waves])
        print(
            f"{label:14} median F0 {np.median(np.concatenate(voiced)):.1f} Hz [{spread[0]:.1f}, {spread[1]:.1f}], "
            f"level {interval([level(w) for w in waves])} dB, at full scale {full:.3f} of the recordings"
        )
    alike = [
        k for k in range(len(names)) if 2 / 3 < len(trimmed(source_waves[k])) / len(trimmed(target_waves[k])) < 1.5
    ]
    wanted = [mfcc(target_waves[k]) for k in alike]
    _, plain = ranks([mfcc(source_waves[k]) for k in alike], wanted)
    _, moved = ranks([mfcc(made[k]) for k in alike], wanted)
    between, _ = ranks(wanted, wanted)
    constant = np.stack([1 + (row[None] < row[:, None]).sum(1) for row in between])
    constant = constant[constant.mean(1).argmin()]
    print(f"rank of the true partner among {len(alike)} (names whose recordings last about as long):")
    for label, values in (("untranslated", plain), ("constant", constant), ("flow", moved)):
        print(f"{label:14} {interval(values)}, first of all {np.mean(values == 1):.3f}")
    for label, values in (("untranslated", plain), ("constant", constant)):
        print(f"flow - {label:14} {interval(moved - values)}")


def clouds(run, translated):
    target, reader = restore(RunFolder(Path(run))).module.target, CloudFiles(128)
    made = [path for _, path in sorted(by_stem(translated, CloudFiles.suffixes).items())]
    held = torch.cat([target.splits["test"], target.splits["validation"]])
    n = min(len(made), len(held))
    train = target.splits["train"]
    train = train[torch.arange(n) * len(train) // n]
    a = torch.cat([torch.from_numpy(reader.read(path).items).mT for path in made[:n]])
    b, c = (target.raw[rows[:n]][:, : a.shape[2]].mT for rows in (held, train))
    sides = {"a": a, "b": b, "c": c}
    between = {x + y: ChamferCost()(Sample(sides[x]), Sample(sides[y])) for x, y in ("aa", "ab", "bb", "cc", "cb")}

    def accuracy(x, rows):
        own, across, real = (between[key][rows][:, rows] for key in (x + x, x + "b", "bb"))
        return float(nearest_neighbour_accuracy(own, across, real))

    random, whole = np.random.default_rng(0), torch.arange(n)
    for label, x in (("translated", "a"), ("other real clouds (floor)", "c")):
        # in a resample with repetition a cloud's nearest one is its own copy: halves have no copies, and the variance of
        # the mean of half of the clouds, drawn without repetition, is that of all of them
        halves = [accuracy(x, torch.from_numpy(random.permutation(n)[: n // 2])) for _ in range(400)]
        print(
            f"{label:28} 1-nearest-neighbour accuracy {accuracy(x, whole):.3f} ± {np.std(halves):.3f}, {n} clouds each"
        )


def pairs(run):
    """How many pairs of the coupling of the whole training set are partners, and of one class."""
    data = restore(RunFolder(Path(run))).data
    i, j = data.train.whole
    source, target = data.train.pairing.source, data.train.pairing.target
    wanted = partners(source, target)[source.index[i]]
    print(f"partners {(wanted == target.index[j]).double().mean():.3f}", end="")
    if source.classes and target.classes:
        print(
            f", of one class {(source.labels[source.index[i]] == target.labels[target.index[j]]).double().mean():.3f}"
        )


if __name__ == "__main__":
    {"pairs": pairs, "pictures": pictures, "speech": speech, "clouds": clouds}[sys.argv[1]](*sys.argv[2:])
