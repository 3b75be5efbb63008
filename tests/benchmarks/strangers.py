"""Errors of a model on speakers it was not trained on.

Trains on a TIMIT corpus (NLTK's sample of it will do) without some of its
speakers: three SX sentences of each other one. Thresholds are calibrated on
the other two. Tested on the SI sentences, and all SX and SI sentences of those
left out, are closed-set identification, rejection of those left out,
verification over all pairs, and identification of those left out, enrolled
from three SX sentences each, with the threshold.

    python tests/benchmarks/strangers.py TIMIT work --left_out fapb0 marc0 -- \\
        --number_of_epochs=20 --batches_per_epoch=30 --batch_size=64

Arguments after ``--`` go to train.py; a finished training is not repeated.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from amsincnet_sb.dataio.corpus import write_to_folder
from amsincnet_sb.dataio.manifest import Provenance, write_manifest
from amsincnet_sb.inference import UNKNOWN, SpeakerIdentifier
from amsincnet_sb.inference.evaluation import (
    calibration_from,
    cohort_from,
    evaluate_model,
    report,
)

RECIPES = Path(__file__).parents[2] / "recipes" / "TIMIT"
sys.path.insert(0, str(RECIPES))

from timit_prepare import scan_timit  # noqa: E402


def manifests(corpus, folder, left_out):
    """Write those of a preparation, and judged.csv; return the strangers'."""
    utterances = scan_timit(corpus).utterances
    strangers = [u for u in utterances if u.spk_id in left_out]
    splits, held_out = {"train": [], "valid": [], "test": []}, Counter()
    for utterance in utterances:
        if utterance.spk_id in left_out:
            continue
        split = "train" if "-sx" in utterance.id else "test"
        if split == "train" and held_out[utterance.spk_id] < 2:
            split = "valid"
            held_out[utterance.spk_id] += 1
        splits[split].append(utterance)
    options = {"corpus": "TIMIT", "left_out": left_out}
    write_to_folder(folder, splits, Provenance(options, ""))
    write_manifest(folder / "judged.csv", splits["test"] + strangers)
    return strangers


def main():
    """Train, calibrate, and print the errors."""
    arguments, training = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, training = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus")
    parser.add_argument("work")
    parser.add_argument("--left_out", nargs="+", default=["fapb0", "marc0"])
    parser.add_argument("--hparams", default="am_sincnet_m030.yaml")
    options = parser.parse_args(arguments)
    corpus, work = Path(options.corpus).resolve(), Path(options.work).resolve()
    strangers = manifests(corpus, work / "manifests", options.left_out)
    if not (work / "results" / "pretrained").is_dir():
        recipe = RECIPES / "speaker_id"
        subprocess.run(
            [sys.executable, "train.py", f"hparams/{options.hparams}"]
            + [f"--manifest={work / 'manifests'}", f"--data_folder={corpus}"]
            + [f"--output_folder={work / 'results'}", *training],
            cwd=recipe,
            check=True,
        )
    model = SpeakerIdentifier.from_results(work / "results")
    hop, model.hop = model.hop, model.embedding_model.hop
    train, held_out, judged = (
        work / "manifests" / f"{name}.csv"
        for name in ("train", "valid", "judged")
    )
    for cohort in (None, train):
        print("\nverification", "against a cohort" if cohort else "by cosines")
        model.calibration = {}
        model.cohort = cohort and cohort_from(model, cohort, corpus)
        found = evaluate_model(model, held_out, corpus)
        model.calibration = calibration_from(found, held_out)
        found = evaluate_model(model, judged, corpus)
        print("\n".join(report(found)))
        del found["verification"]["det"]
        print(json.dumps(found))

    model.hop = hop
    print("\nenrolled from three sentences each, asked about the others")
    asked = []
    for name in options.left_out:
        own = [s for s in strangers if s.spk_id == name]
        own.sort(key=lambda s: ("-si" in s.id, s.id))
        model.enroll(name, [corpus / s.wav for s in own[:3]])
        asked += own[3:]
    answers = model.identify(
        [corpus / s.wav for s in asked], 2, threshold="calibrated"
    )
    for sentence, (best, *_) in zip(asked, answers):
        share = "" if best.speaker == UNKNOWN else f"{best.share:.3f}"
        print(f"  {sentence.id:<20} {best.speaker:<10} {share}")
    right = sum(a[0].speaker == s.spk_id for a, s in zip(answers, asked))
    print(f"{right} of {len(asked)} right")


if __name__ == "__main__":
    main()
