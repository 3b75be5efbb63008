"""Errors of who speaks when, on conversations made from a test manifest.

Twenty conversations of 5 to 10 minutes with 4 to 10 people, see
conversations.py. A half of the speakers of the manifest takes part (--half 1);
the settings of the method were chosen on conversations with seeds below 1000.
Where the manifest has speakers whom the model does not know, two of them are in
each conversation: one is enrolled from three files of --enrol, the other is
not, and "unknown" is right. Errors are pyannote.metrics', over all
time, without a collar; the reference has the turns.

    python tests/benchmarks/segments.py MODEL --manifest manifests/test.csv \\
        --enrol manifests/train.csv --data-folder corpus
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conversations import converse, read_sentences  # noqa: E402

from amsincnet_sb.inference import SpeakerIdentifier  # noqa: E402
from amsincnet_sb.inference.live import LiveSegments  # noqa: E402
from amsincnet_sb.inference.segment_calibration import share_right  # noqa: E402
from amsincnet_sb.inference.segments import Wanted, find_segments  # noqa: E402
from amsincnet_sb.utils.names import UNKNOWN  # noqa: E402

try:
    from pyannote.core import (
        Annotation,
        Segment as Interval,
        Timeline,
    )
    from pyannote.metrics.diarization import DiarizationErrorRate
    from pyannote.metrics.identification import IdentificationErrorRate
except ImportError:
    sys.exit("Error: run pip install pyannote.metrics first.")

BORDER = 0.25  # seconds
DURATIONS = (0, 1, 3, 1e9)  # seconds of speech, with a line each
TOGETHER = 100  # segments of a point


def annotation(rows):
    """Rows of start, end, name as pyannote has them."""
    made = Annotation()
    for number, (start, end, name) in enumerate(rows):
        made[Interval(start, end), number] = name
    return made


def one_name(name):
    """All unknown voices as one."""
    return UNKNOWN if name.startswith(UNKNOWN) else name


def border_hits(turns, found):
    """Turns with a border of the answer near both of theirs."""
    starts, ends = np.array([s[:2] for s in found]).T
    return [
        abs(starts - turn.start).min() <= BORDER
        and abs(ends - turn.end).min() <= BORDER
        for turn in turns
    ]


def share(turn, found, right):
    """Share of a turn in which an answer is right."""
    both = [
        max(0, min(s.end, turn.end) - max(s.start, turn.start))
        for s in found
        if right(s)
    ]
    return sum(both) / (turn.end - turn.start)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--enrol", help="manifest of other files")
    parser.add_argument("--data-folder", required=True)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000, help="of the first")
    parser.add_argument("--half", type=int, choices=[0, 1], default=1)
    parser.add_argument("--snr", type=float, help="of --noise, in dB")
    parser.add_argument(
        "--noise", nargs="+", default=["white", "pink"], help="kinds, in turn"
    )
    parser.add_argument("--live", action="store_true", help="tell as it comes")
    parser.add_argument("--plot", help="PNG of how often answers are right")
    parser.add_argument("--among", action="store_true", help="tell who")
    parser.add_argument("--details", help="JSON lines of all segments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = SpeakerIdentifier.from_results(options.model)
    waves = read_sentences(options.manifest, options.data_folder)
    names = sorted(waves)
    left_out = [n for n in names if n not in model.speakers]
    known = [n for n in names if n in model.speakers][options.half :: 2]
    left_out = left_out[options.half :: 2]
    if left_out:
        others = read_sentences(options.enrol, options.data_folder)
    totals, rows = {}, []
    details = open(options.details, "w") if options.details else None
    for seed in range(options.seed, options.seed + options.conversations):
        rng = np.random.default_rng([seed, 7])
        count, strangers = rng.integers(4, 11), []
        if left_out:
            strangers = rng.choice(left_out, 2, replace=False).tolist()
        people = rng.choice(known, count - len(strangers), replace=False)
        people = [*strangers, *people.tolist()]
        noise = None
        if options.snr is not None:
            noise = options.noise[seed % len(options.noise)]
        talk = converse(waves, seed, people, noise=noise, snr=options.snr)
        if left_out:
            model.enroll(strangers[0], others[strangers[0]][:3])
        begin = time.perf_counter()
        among = [n for n in people if n in model.speakers]
        wanted = Wanted(among=tuple(among) if options.among else None)
        tell = live_segments if options.live else find_segments
        found = tell(model, torch.from_numpy(talk.wave), wanted)
        took = time.perf_counter() - begin
        measured = measure(talk, found, model.speakers, strangers[:1])
        measured["seconds per hour"] = [took * 3600 * 16000 / len(talk.wave)]
        for key, values in measured.items():
            totals.setdefault(key, []).extend(values)
        print(seed, count, *shown(measured), sep="  ", flush=True)
        for s in found:
            right = share_right(s, talk.turns, model.speakers)
            row = {"seed": seed, "right": right, **s._asdict()}
            rows.append(row)
            if details:
                print(json.dumps(row), file=details)
        if left_out:
            model.remove(strangers[0])
    print("all", *shown(totals), sep="  ")
    if options.plot:
        plot_reliability(rows, options.plot)


def live_segments(model, wave, wanted):
    """Segments of a wave that comes in tenths of a second."""
    live = LiveSegments(model, wanted)
    found = [s for piece in wave.split(1600) for s in live.hear(piece)]
    return [s for s in [*found, *live.finish()] if s.end is not None]


def plot_reliability(rows, path):
    """What was said to be how probable, and how often it was right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.8), dpi=90)
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1)
    rows = [row for row in rows if row["right"] is not None]
    for least, most in itertools.pairwise(DURATIONS):
        said, right = np.array(
            [
                (row["probability"], row["right"])
                for row in sorted(rows, key=lambda row: row["probability"])
                if least <= row["speech"] < most
            ]
        ).T
        bins = np.array_split(
            np.arange(len(said)), max(1, len(said) // TOGETHER)
        )
        axes.plot(
            [said[b].mean() for b in bins],
            [right[b].mean() for b in bins],
            marker="o",
            label=f"{least} to {most} s" if most < 1e3 else f"over {least} s",
        )
    axes.set(xlabel="said probability", ylabel="share that is right")
    axes.legend(title="speech")
    figure.tight_layout()
    figure.savefig(path)


def measure(talk, found, speakers, enrolled):
    """Errors of one conversation, lists by what they are."""
    seconds = len(talk.wave) / 16000
    whole = Timeline([Interval(0, seconds)])
    said = [(s.start, min(s.end, seconds), s.speaker) for s in found]
    named = [(a, b, one_name(name)) for a, b, name in said]
    turns = [
        (a, b, name if name in speakers else UNKNOWN)
        for a, b, name in talk.turns
    ]
    right = annotation(turns)
    identified = IdentificationErrorRate()(
        right, annotation(named), uem=whole, detailed=True
    )
    total = identified["total"]
    measured = {
        "IER": [100 * identified["identification error rate"]],
        "DER": [
            100
            * DiarizationErrorRate()(
                annotation(talk.turns), annotation(said), uem=whole
            )
        ],
        "missed": [100 * identified["missed detection"] / total],
        "false alarm": [100 * identified["false alarm"] / total],
        "confused": [100 * identified["confusion"] / total],
        "borders": [100 * hit for hit in border_hits(talk.turns, found)],
    }
    strangers = {t.speaker for t in talk.turns} - {*speakers}
    measured["unknown, turns > 2 s"] = [
        100 * (share(t, found, lambda s: one_name(s.speaker) == UNKNOWN) > 0.5)
        for t in talk.turns
        if t.speaker in strangers and t.end - t.start > 2
    ]
    measured["enrolled, error"] = [
        100 * (1 - share(t, found, lambda s, t=t: s.speaker == t.speaker))
        for t in talk.turns
        if t.speaker in enrolled
    ]
    return measured


def shown(measured):
    """Means by what they are of."""
    for key, values in measured.items():
        if values:
            yield f"{key} {np.mean(values):.2f}"


if __name__ == "__main__":
    main()
