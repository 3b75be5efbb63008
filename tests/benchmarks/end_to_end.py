"""Wall clock of a whole training run, from the command to the last figure.

Example: ``python tests/benchmarks/end_to_end.py --epochs 360`` on a GPU. It
generates a corpus of TIMIT's size (462 speakers, 8 sentences each; not timed)
and times ``train.py`` as a process on it: preparation, loading, compilation,
training, all evaluations and checkpoints. A straightforward port of the same
network (plain torch, ``F.conv1d``, audio in memory, one kernel at a time) is
timed for some steps in this process first; what it would take for as many
steps, its evaluations left out, is the last column.
"""

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipe_process  # noqa: E402
import torch  # noqa: E402
from train_step import (  # noqa: E402
    SPEAKERS,
    command_line,
    machine,
    make_step,
    timed,
)

NETWORKS = {
    "am_sincnet.yaml": "sincnet",
    "sinc_tdnn.yaml": "sinc_tdnn",
    "am_sincnet_original.yaml": "sincnet",
}


def port_milliseconds(args, device):
    """Time per step of the straightforward port."""
    args.device, args.optimizer = device, "adamw"
    args.network = NETWORKS[args.hparams]
    step = make_step(args, False, "tf32", False, False)
    return statistics.median(timed(step, device, turns=5, steps=2))


def run(args, corpus, output):
    """Seconds of the process, and its evaluations."""
    command = recipe_process.arguments(
        args.hparams,
        data_folder=corpus,
        output_folder=output,
        number_of_epochs=args.epochs,
        batches_per_epoch=args.batches,
    )
    start = time.perf_counter()
    process = recipe_process.start(
        *command, OMP_NUM_THREADS=str(torch.get_num_threads())
    )
    text, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(text[-3000:])
    return seconds, recipe_process.records(output)


def main():
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batches", type=int, default=800, help="per epoch")
    parser.add_argument(
        "--hparams", default="am_sincnet.yaml", choices=NETWORKS
    )
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    port = port_milliseconds(args, device)
    with tempfile.TemporaryDirectory() as folder:
        corpus = recipe_process.corpus(folder, SPEAKERS)
        seconds, found = run(args, corpus, Path(folder) / "results")
    ram = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    steps = args.epochs * args.batches
    last = found[-1]
    outside = seconds - last["seconds"]
    at = [record["seconds"] for record in found]
    between = [b - a for a, b in zip(at, at[1:])] or at
    print(
        f"{args.hparams}, {steps} steps of 128; {machine(device)}, generated "
        "speech; seconds but for the port's ms per step\n"
        "| steps | evaluations | command to last figure | of that before "
        "training and after | to the first evaluation | from one to the next "
        "| port, ms | port | ratio | RAM GiB | sentence error % |\n"
        f"|{'---|' * 11}\n"
        f"| {steps} | {len(found)} | {seconds:.1f} | {outside:.1f} "
        f"| {at[0]:.1f} | {statistics.median(between):.2f} | {port:.2f} "
        f"| {port * steps / 1e3:.1f} | {port * steps / 1e3 / seconds:.2f} "
        f"| {ram:.2f} | {last['sentence_error']:.3f} |"
    )


if __name__ == "__main__":
    main()
