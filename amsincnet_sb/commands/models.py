"""Commands that ask or change a trained model."""

from pathlib import Path

from amsincnet_sb.commands.bulk import EXECUTOR, in_parts
from amsincnet_sb.commands.common import (
    CHANNEL,
    FILES,
    MODEL,
    answer,
    complain,
    load,
    load_to_change,
    printing_to,
    read_recordings,
    save,
)
from amsincnet_sb.options import argument, command
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, check_output


@command(
    *MODEL,
    CHANNEL,
    FILES,
    argument("--top", "candidates to show", int, 3, least=1),
    argument("--unknown", "'unknown' where too little is for anybody", bool),
    argument(
        "--threshold", "least probability, 0 to 1", float, least=0, most=1
    ),
    argument("--output", "*.jsonl for the answers, in place of printing them"),
    EXECUTOR,
)
def identify(options):
    """Name the speakers of recordings.

    A terminal shows a table; a pipe gets one JSON object per file. --unknown
    uses the calibrated threshold; --threshold gives another. A folder stands
    for the audio files in it and below, - for one on standard input.

    example: amsincnet identify results/demo/1234 a.wav b.flac
    """
    if options.output is not None and Path(options.output).suffix != ".jsonl":
        raise InputError(
            f"--output is {options.output} but must end with .jsonl."
        )
    if options.executor is not None:
        more = ["--top", str(options.top)]
        more += ["--unknown"] * options.unknown
        if options.threshold is not None:
            more += ["--threshold", str(options.threshold)]
        return in_parts(options, "identify", _join_lines, ".jsonl", *more)
    names, recordings, failed = read_recordings(options.files)
    with printing_to(options.output, *names):
        return max(failed, _identify(options, names, recordings))


def _identify(options, names, recordings):
    model, threshold, failed = load(options), options.threshold, 0
    if options.unknown and threshold is None:
        threshold = "calibrated"
    answers = model.identify_all(recordings, options.top, threshold, True)
    for path, candidates in zip(names, answers):
        if isinstance(candidates, InputError):
            failed = complain(candidates)
            continue
        lines = [
            f"  {speaker}"
            if score is None
            else f"  {speaker:<20} probability {chance:6.1%}  score {score:8.3f}"
            for speaker, score, chance in candidates
        ]
        # The probability by its old name too.
        best = [{**c._asdict(), "share": c.share} for c in candidates]
        answer(options, {"file": path, "candidates": best}, path, *lines)
    return failed


def _join_lines(paths, output):
    count = 0
    with atomic_write(output) as file:
        for path in paths:
            with open(path, encoding="utf-8") as part:
                for line in part:
                    file.write(line)
                    count += 1
    return count


@command(
    *MODEL,
    CHANNEL,
    argument("name", "of the new speaker"),
    FILES,
    argument("--extend", "the speaker is enrolled: add recordings", bool),
    argument(
        "--prototypes",
        "means, of which the best counts (default: as unlike as they are)",
        int,
        least=1,
        most=8,
    ),
)
def enroll(options):
    """Add a speaker to a model, without training.

    The model's folder gets the file enrolled.npz. All recordings must be of
    the speaker; those that cannot be used are left out, and told.

    example: amsincnet enroll results/demo/1234 anna anna1.wav anna2.wav
    """
    model = load_to_change(options)
    name = model.classifier.spelling(options.name)
    _, recordings, failed = read_recordings(options.files)
    if failed and not recordings:
        return failed  # of which it is told
    left_out = model.enroll(
        name, recordings, options.extend, True, options.prototypes
    )
    files = len(recordings) - len(left_out)
    said = f"Enrolled {name} from {files} {'more ' * options.extend}file(s)"
    save(options, model, {"enrolled": name, "files": files}, said)
    return max([failed, *map(complain, left_out)])


@command(*MODEL)
def speakers(options):
    """List the speakers of a model: trained ones, then enrolled ones.

    A terminal shows a table; a pipe gets one JSON object per speaker. It tells
    from how many recordings a speaker was enrolled, where that is known.

    example: amsincnet speakers results/demo/1234
    """
    model = load(options)
    for name in model.speakers:
        one = model.classifier.enrolled.get(name)
        values = {"speaker": name, "kind": "enrolled" if one else "trained"}
        if one:
            values["recordings"] = len(one.directions) or None
            if len(one.vectors) > 1:
                values["prototypes"] = len(one.vectors)
        count = values.get("recordings")
        said = f"{name:<20} {values['kind']}"
        said += f" from {count} recording(s)" if count else ""
        answer(options, values, said)


@command(*MODEL, argument("name", "of the enrolled speaker"))
def remove(options):
    """Remove an enrolled speaker from a model.

    example: amsincnet remove results/demo/1234 anna
    """
    model = load_to_change(options)
    name = model.classifier.spelling(options.name)
    model.remove(name)
    save(options, model, {"removed": name}, f"Removed {name}")


@command(
    *MODEL,
    CHANNEL,
    FILES,
    argument("--output", "*.npz or *.csv", required=True),
    EXECUTOR,
)
def embed(options):
    """Write speaker embeddings (d-vectors) of recordings to a file.

    An npz has the arrays files and embeddings, a CSV a row per file. A folder
    stands for the audio files in it and below, - for one on standard input.

    example: amsincnet embed results/demo/1234 a.wav b.flac --output all.npz
    """
    import torch

    from amsincnet_sb.inference.export import write_embeddings

    if Path(options.output).suffix not in (".npz", ".csv"):
        raise InputError(
            f"--output is {options.output} but must end with .npz or .csv."
        )
    if options.executor is not None:
        return in_parts(options, "embed", _join_embeddings, ".npz")
    names, recordings, failed = read_recordings(options.files)
    check_output(options.output, *names)
    model = load(options)
    rows = []
    for path, found in zip(names, model.analyse_all(recordings, errors=True)):
        if isinstance(found, InputError):
            failed = complain(found)
        else:
            rows.append((path, found.embedding.cpu()))
    if rows:
        files, embeddings = zip(*rows)
        write_embeddings(options.output, files, torch.stack(embeddings))
        count, size = len(files), len(embeddings[0])
        values = {"output": options.output, "files": count, "size": size}
        said = f"{count} speaker embeddings of {size} dimensions"
        answer(options, values, f"{said}: {options.output}")
    return failed


def _join_embeddings(paths, output):
    import numpy as np
    import torch

    from amsincnet_sb.inference.export import write_embeddings

    parts = [np.load(path) for path in paths]
    files = [name for part in parts for name in part["files"].tolist()]
    embeddings = np.concatenate([part["embeddings"] for part in parts])
    write_embeddings(output, files, torch.from_numpy(embeddings))
    return len(files)


@command(*MODEL, argument("output", "*.onnx, or a new folder"))
def export(options):
    """Write a model for other programs: ONNX, or safetensors.

    A name ending in .onnx makes an ONNX file (waveform of any length to
    scores and speaker embedding), which onnxruntime runs for comparison;
    another name makes a folder with model.safetensors and config.json, which
    all commands read as well. Enrolled speakers are part of either.

    example: amsincnet export results/demo/1234 model.onnx
    """
    output, model = options.output, load(options)
    if not output.endswith(".onnx"):
        model.save(output, safetensors=True)
        answer(options, {"output": output}, output)
        return
    check_output(output)
    from amsincnet_sb.inference.export import export_onnx

    found = export_onnx(model, output)
    said = (
        f"  differs by at most {found.difference:.1e} of the largest value; "
        f"3 s of audio take {found.onnx_seconds:.3f} s in onnxruntime, "
        f"{found.torch_seconds:.3f} s in torch"
    )
    values = {"output": output, **found._asdict()}
    answer(options, values, output, said)
