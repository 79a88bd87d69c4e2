"""Files of the user's translated into files of the same names, by a run whose training data may be gone."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from flowport.cache import progress, write_atomically
from flowport.data.agreement import class_names, shortened
from flowport.distribution import CloudFiles, Files, PictureFiles, SoundFiles
from flowport.distribution.base import Distribution
from flowport.distribution.files import Reading
from flowport.distribution.folder import listed, reading_of, reason_of, report
from flowport.errors import FlowportError
from flowport.modality import Cloud, Image, Spectrogram
from flowport.types import Sample

logger = logging.getLogger(__name__)
BATCH = 32
"""Number of files that are read and translated at once."""
TOLD, REFUSED = 1.5, 4.0
"""Reach of given values, in half ranges of the training points, from which it is told and refused."""


@dataclass
class Sides:
    """The two ends of a translation.

    Args:
        begin: Where points come from.
        end: Where they go.
    """

    begin: Distribution
    end: Distribution

    def reader(self) -> Files:
        """How files become points of the beginning.

        Raises:
            FlowportError: When its points are of no kind of files.
        """
        found = files_of(self.begin)
        if found is None:
            name = type(self.begin.modality.surface()).__name__
            raise FlowportError(
                f"this flow begins at points of modality={name}, which are no pictures, recordings or shapes: give "
                "input=<array>, a .npy, .npz or .pt file"
            )
        return found


def files_of(side: Distribution) -> Files | None:
    """How points of a side are read from files and written as such; None where they are of no kind of files.

    Args:
        side: The side.
    """
    own, modality, shape = getattr(side, "files", None), side.modality.surface(), _observed_shape(side)
    if isinstance(own, SoundFiles):
        return SoundFiles(own.rate)
    if own is not None:
        return own
    if isinstance(modality, Image) and shape[0] in (1, 3, 4):
        channels, background = (3, "alpha") if shape[0] == 4 else (shape[0], "white")
        return PictureFiles(shape[1:], channels, background)  # type: ignore[arg-type]
    if isinstance(modality, Spectrogram):
        return SoundFiles(modality.rate)
    return CloudFiles(shape[1]) if isinstance(modality, Cloud) and shape[0] == 3 else None


def _observed_shape(side: Distribution) -> tuple[int, ...]:
    codec = side.modality.codec()
    if codec is None:
        return tuple(side.event_shape)
    return tuple(side.modality.observed(torch.zeros(1, *side.event_shape)).shape[1:])


def find(given: str, reader: Files) -> tuple[Path, list[str], dict[str, str]]:
    """The folder and the relative names of the files to translate, and what of them is no file, with the reason.

    Args:
        given: A file or a folder.
        reader: What is read.

    Raises:
        FlowportError: When there is no such file or folder, or nothing of the kind in it.
    """
    place = Path(given).expanduser()
    if place.is_file():
        suffix = place.suffix.lower()
        if suffix not in reader.suffixes:
            advice = reader.unread.get(suffix, f"{reader.kind} are {', '.join(reader.suffixes)}")
            raise FlowportError(f"input={given} is not read: {advice}")
        return place.parent, [place.name], {}
    if not place.exists():
        raise FlowportError(f"input={given} does not exist: give a file or a folder")
    listing = listed(place, reader.suffixes)
    report(f"input={given}", listing, reader, listing.names)
    if not listing.names:
        raise FlowportError(f"input={given} holds no {', '.join(reader.suffixes)} file")
    return place, listing.names, listing.broken


def plan(names: list[str], writer: Files, like: Files, samples: int) -> dict[str, list[str]]:
    """The relative names of the files that are written, by the name of the file that is read.

    Names are kept; where the suffix cannot be written, another one takes its place, and where two files would have one
    name, their old suffixes stay in it.

    Args:
        names: Relative names of the files that are read.
        writer: What is written.
        like: What is read.
        samples: Number of translations of each file.
    """
    kept = type(writer) is type(like)
    new = {name: writer.written(PurePosixPath(name).suffix.lower()) if kept else writer.plain for name in names}
    made = {
        name: str(PurePosixPath(name).with_suffix(suffix)) if PurePosixPath(name).suffix.lower() != suffix else name
        for name, suffix in new.items()
    }
    taken = {name for name, wanted in made.items() if name == wanted}
    for name, wanted in list(made.items()):
        if name == wanted:
            continue
        if wanted in taken:
            wanted = name + new[name]  # with its old suffix in the name
        while wanted in taken:
            wanted += new[name]
        made[name] = wanted
        taken.add(wanted)
    changed = Counter(PurePosixPath(n).suffix.lower() + " as " + new[n] for n in names if made[n] != n)
    if changed:
        logger.info("written under another suffix: %s", ", ".join(f"{n} {how}" for how, n in changed.items()))
    if samples == 1:
        return {name: [wanted] for name, wanted in made.items()}
    return {
        name: [str(PurePosixPath(w).with_stem(f"{PurePosixPath(w).stem}_{k}")) for k in range(1, samples + 1)]
        for name, w in made.items()
    }


def check_output(output: Path, planned: dict[str, list[str]], folder: Path, overwrite: bool) -> None:
    """Check that translations can be written and that no file that is read is written.

    Args:
        output: The folder of the translations.
        planned: See ``plan``.
        folder: The folder of the files that are read.
        overwrite: Whether files in the folder may be replaced.

    Raises:
        FlowportError: When the output is no folder, lies in the input, holds files, or holds files that are read.
    """
    suffixes = {PurePosixPath(name).suffix.lower() for names in planned.values() for name in names}
    if output.suffix.lower() in suffixes - {""} and not output.exists():
        raise FlowportError(f"output={output} has the name of a file: give a folder, into which files are written")
    if output.exists() and not output.is_dir():
        raise FlowportError(f"output={output} is a file: give a folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FlowportError(f"output={output} is not empty: give another folder, or add overwrite=true")
    here, there = folder.resolve(), output.resolve()
    if len(planned) > 1 and (there == here or here in there.parents):
        raise FlowportError(f"output={output} lies in the input, where it would be translated too: give another folder")
    read = {(folder / name).resolve() for name in planned}
    if read & {(output / name).resolve() for names in planned.values() for name in names}:
        raise FlowportError(f"output={output} would replace files that are read: give another folder")


@dataclass
class Outcome:
    """What a translation of files has done.

    Args:
        files: Number of files that were written.
        pieces: Number of points that were translated.
        unreadable: Reason by the name of every file that could not be read.
        notes: What readers had to decide, with the number of files.
        seconds: Time it took.
        begin: Points of the first files, for a picture.
        end: Their translations.
        moved: Sum over pieces of the squared distance to the start; None where the two have different shapes.
    """

    files: int = 0
    pieces: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    begin: list[Tensor] = field(default_factory=list)
    end: list[Tensor] = field(default_factory=list)
    moved: float = 0.0


Translate = Callable[[Sample, int], Tensor]
"""(points, number of the batch and sample) -> their translations."""


@dataclass
class FileTranslation:
    """Reads files in batches, translates their points and writes the results.

    Args:
        sides: The two ends.
        reader: What is read.
        writer: What is written.
        translate: Translates points.
        device: Where.
        samples: Number of translations of each file.
        mask: Whether frames behind the end of a recording are left as they are.
    """

    sides: Sides
    reader: Files
    writer: Files
    translate: Translate
    device: torch.device
    samples: int
    mask: bool

    def run(self, folder: Path, planned: dict[str, list[str]], output: Path) -> Outcome:
        """Translate files.

        Args:
            folder: Where they lie.
            planned: See ``plan``.
            output: Where their translations go.

        Raises:
            FlowportError: When none can be read.
        """
        done, began = Outcome(), time.perf_counter()
        names = list(planned)
        batches = [names[k : k + BATCH] for k in range(0, len(names), BATCH)]
        with ThreadPoolExecutor() as pool:
            for number, batch in enumerate(progress(batches, f"translating {len(names)} files", len(batches))):
                readings = dict(zip(batch, pool.map(lambda name: self._reading(folder / name), batch), strict=True))
                done.unreadable.update({name: r for name, r in readings.items() if isinstance(r, str)})
                good = {name: r for name, r in readings.items() if isinstance(r, Reading)}
                done.notes.update(reading.note for reading in good.values() if reading.note)
                if good:
                    self._batch(good, number, planned, output, done, pool)
        done.seconds = time.perf_counter() - began
        for note, number in done.notes.items():
            logger.warning("input: %d %s %s", number, self.reader.kind, note)
        if not done.files:
            name, why = next(iter(done.unreadable.items()))
            raise FlowportError(f"no file of the input can be read: {folder / name} ({why})")
        return done

    def _reading(self, path: Path) -> Reading | str:
        try:
            return reading_of(self.reader, path)
        except Exception as error:  # readers of damaged files raise exceptions of any type
            return reason_of(error)

    def _batch(
        self,
        good: dict[str, Reading],
        number: int,
        planned: dict[str, list[str]],
        output: Path,
        done: Outcome,
        pool: ThreadPoolExecutor,
    ) -> None:
        points = [self._points(reading) for reading in good.values()]
        counts = [len(one) for one in points]
        whole = Sample(
            torch.cat([one.x for one in points]),
            self._labels(list(good), counts),
            torch.cat([one.mask for one in points]) if points[0].mask is not None else None,  # type: ignore[misc]
        ).to(self.device)
        for k in range(self.samples):
            ends = self.translate(whole, number * self.samples + k)
            done.pieces += len(ends)
            if ends.shape == whole.x.shape:
                done.moved += float((ends - whole.x).double().square().sum())
            if not done.end or sum(map(len, done.end)) < self.sides.end.modality.shown:
                done.begin.append(whole.x.cpu())
                done.end.append(ends.cpu())
            jobs = []
            for (name, reading), end in zip(good.items(), ends.split(counts), strict=True):
                raw = self._raw(end, reading)
                jobs.append(pool.submit(self._write, raw, output / planned[name][k], reading))
            for job in jobs:
                job.result()
                done.files += 1

    def _points(self, reading: Reading) -> Sample:
        """The points of a file: several pieces of a recording, else one."""
        raw, modality = torch.from_numpy(reading.items), self.sides.begin.modality
        surface = modality.surface()
        if not isinstance(surface, Spectrogram):
            return Sample(modality.encode(raw, None))
        samples = _observed_shape(self.sides.begin)[-1] * surface.hop
        pieces, lengths = surface.cut(raw[0], samples)
        x = modality.encode(pieces, None)
        if not self.mask:
            return Sample(x)
        return Sample(x, mask=surface.data_frames(lengths, samples)[:, None, None].expand_as(x))

    def _labels(self, names: list[str], counts: list[int]) -> Tensor | None:
        """Classes by the first sub-folder of every file, where all are classes of the run's."""
        known = class_names(self.sides.begin)
        parents = [PurePosixPath(name).parts[0] for name in names]
        if not known or not set(parents) <= set(known):
            return None
        numbers = [known.index(parent) for parent in parents]
        return torch.tensor(numbers).repeat_interleave(torch.tensor(counts))

    def _raw(self, end: Tensor, reading: Reading) -> Tensor:
        """The raw item that is written for the translated points of one file."""
        modality = self.sides.end.modality
        surface = modality.surface()
        if not isinstance(surface, Spectrogram):
            return modality.decode(end)[0].cpu()
        whole = surface.recording(surface.joined(modality.observed(end)))[0].cpu()
        return whole[: reading.items.shape[1]] if isinstance(self.reader, SoundFiles) else whole

    def _write(self, raw: Tensor, path: Path, reading: Reading) -> None:
        write_atomically(path, lambda place: self.writer.write(raw, place, path.suffix.lower(), reading))


def write_unreadable(unreadable: dict[str, str], path: Path) -> None:
    """List the files that could not be read, with their reasons, and say so.

    Args:
        unreadable: Reason by name.
        path: The list.
    """
    if not unreadable:
        return
    text = "".join(f"{name}\t{why}\n" for name, why in unreadable.items())
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))
    name, why = next(iter(unreadable.items()))
    logger.warning("%d files cannot be read, %s first (%s): all are listed in %s", len(unreadable), name, why, path)


def check_range(x: Tensor, begin: Distribution, given: str) -> None:
    """Check that values of an array lie in the range that the run has learnt, as far as it is remembered.

    Args:
        x: Points, (n, *D).
        begin: The side that they belong to.
        given: Name of the array, for messages.

    Raises:
        FlowportError: When they reach more than four times as far.
    """
    low, high = getattr(begin, "range", (0.0, 0.0))
    if not high > low:
        return
    reach = float((x - (high + low) / 2).abs().max()) / ((high - low) / 2)
    told = (
        f"input={given} holds values from {float(x.min()):.3g} to {float(x.max()):.3g}, but this run has learnt "
        f"{low:.3g} to {high:.3g}"
    )
    if reach > REFUSED:
        raise FlowportError(f"{told}: scale them as the training points, or give bytes or files")
    one_sided = low < -high / 2 and float(x.min()) >= 0  # such as 0 to 1 in the place of −1 to 1
    if reach > TOLD or one_sided:
        logger.warning("%s: are they on the same scale?", told)


def number_of_label(label: int | str, names: tuple[str, ...]) -> int:
    """The number of a class that is given by its name or number.

    Args:
        label: Name or number.
        names: Names of all classes.

    Raises:
        FlowportError: When there is no such class.
    """
    if str(label) in names:
        return names.index(str(label))
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    known = shortened(names) if names else "no classes (conditioning=target_label trains with them)"
    raise FlowportError(f"label={label} is not a label that this flow was trained with: it has {known}")
