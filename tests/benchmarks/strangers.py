"""Errors of a model on speakers it was not trained on.

Trains on a TIMIT corpus (NLTK's sample of it will do) without some of its
speakers: four SX sentences of each other one. Thresholds are calibrated on the
fifth SX and the two SA sentences. Tested on the SI sentences, and all SX and
SI sentences of those left out, are closed-set identification, rejection of
those left out, verification over all pairs, and identification of those left
out, enrolled from three SX sentences each, with the threshold.

    python tests/benchmarks/strangers.py TIMIT work --left_out fapb0 marc0 -- \\
        --number_of_epochs=20 --batches_per_epoch=30 --batch_size=64

Arguments after ``--`` go to train.py; a finished training is not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from amsincnet_sb.dataio.corpus import write_to_folder
from amsincnet_sb.dataio.manifest import Provenance, Utterance, write_manifest
from amsincnet_sb.inference import UNKNOWN, SpeakerIdentifier
from amsincnet_sb.inference.evaluation import (
    calibration_from,
    cohort_from,
    evaluate_model,
    report,
)

RECIPES = Path(__file__).parents[2] / "recipes" / "TIMIT"
sys.path.insert(0, str(RECIPES))

from timit_prepare import parse_wrd, scan_timit  # noqa: E402


def manifests(corpus, folder, left_out):
    """Write all manifests; those of the training as a preparation."""
    utterances = scan_timit(corpus).utterances
    strangers = [u for u in utterances if u.spk_id in left_out]
    splits, speakers = {"train": [], "valid": [], "test": []}, set()
    for utterance in utterances:
        if utterance.spk_id in left_out:
            continue
        split = "train" if "-sx" in utterance.id else "test"
        if split == "train" and utterance.spk_id not in speakers:
            split = "valid"
            speakers.add(utterance.spk_id)
        splits[split].append(utterance)
    options = {"corpus": "TIMIT", "left_out": left_out}
    write_to_folder(folder, splits, Provenance(options, ""))
    read_by_all = []
    for path in sorted(Path(corpus).glob("TRAIN/*/*/SA*.WAV")):
        speaker = path.parent.name.lower()
        if speaker in speakers:
            start, stop = parse_wrd(path.with_suffix(".WRD").read_text())[:2]
            wav = path.relative_to(corpus).as_posix()
            name = f"{speaker}-{path.stem.lower()}"
            seconds = (stop - start) / 16000
            read_by_all.append(
                Utterance(name, seconds, wav, start, stop, speaker)
            )
    write_manifest(folder / "calibration.csv", splits["valid"] + read_by_all)
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
    files = {n: work / "manifests" / f"{n}.csv" for n in ("train", "judged")}
    held_out = work / "manifests" / "calibration.csv"
    for cohort in (None, files["train"]):
        print("\nverification", "against a cohort" if cohort else "by cosines")
        model.calibration = {}
        model.cohort = cohort and cohort_from(model, cohort, corpus)
        found = evaluate_model(model, held_out, corpus)
        model.calibration = calibration_from(found, held_out)
        found = evaluate_model(model, files["judged"], corpus)
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
