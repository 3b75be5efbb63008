"""Examples a second of the recipe on one GPU and on several, and its resume.

Example: ``python tests/benchmarks/several_gpus.py --gpus 1 2``. The recipe
itself trains on generated speech; a first stretch of steps, which compiles
and captures, is left out. The time between two evaluations is that of the
steps and of one evaluation of a few utterances. With ``--check`` the first
steps on several GPUs are compared with those of one.

With ``--resume`` each number of GPUs trains twice for a while, the second
time stopped by SIGTERM in the middle of an epoch and started again; every
tensor of the last checkpoints must then be the same, bit for bit.
"""

import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipe_process  # noqa: E402
import torch  # noqa: E402
from recipe_process import (  # noqa: E402
    RECIPE,
    arguments,
    corpus,
    metrics,
    records,
    state,
)
from train_step import command_line, machine  # noqa: E402

from amsincnet_sb.training.hparams import plain_options  # noqa: E402
from amsincnet_sb.training.signals import STOPPED  # noqa: E402

BATCH = 128
RANDOM = ("dropout", "equalizer_std_db", "mixture_probability", "band_mask")


def start(args, gpus, output, **options):
    """The recipe as a process, or as several under torchrun."""
    command = []
    if gpus > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={gpus}"]
    options = {
        "data_folder": args.corpus,
        "output_folder": output,
        **options,
        **dict(option.split("=", 1) for option in args.option),
    }
    command += arguments(args.hparams, **options)
    return recipe_process.start(*command)


def finish(process, statuses=(0,)):
    """Wait; print what went wrong."""
    text, _ = process.communicate()
    if process.returncode not in statuses:
        print(text[-6000:])
        raise SystemExit(f"status {process.returncode}")
    for line in text.splitlines():
        if "is not captured" in line or "runs un" in line or "without" in line:
            print("   ", line.strip())
    return text


def run(args, gpus, output, **options):
    return finish(start(args, gpus, output, **options))


def speed(args, folder):
    print("| GPUs | ms per step | examples/s | ratio |")
    print("|---|---|---|---|", flush=True)
    base = None
    for gpus in args.gpus:
        output = folder / f"speed-{gpus}"
        run(
            *(args, gpus, output),
            number_of_epochs=4,
            batches_per_epoch=args.steps // 2,
            valid_interval=2,
            batch_size=BATCH,
        )
        first, last = records(output)[:2]
        seconds = last["seconds"] - first["seconds"]
        milliseconds = 1e3 * seconds / (last["step"] - first["step"])
        rate = gpus * BATCH / milliseconds * 1e3
        base = base or rate
        print(
            f"| {gpus} | {milliseconds:.3f} | {rate:.0f} | {rate / base:.2f} |",
            flush=True,
        )


def check(args, folder):
    """Several GPUs with joint statistics against one with the joint batch."""
    # Adam makes steps of a gradient's sign of rounding, so they are small.
    small = {"lr": 1e-5, "lr_final": 1e-5}
    keys = plain_options(RECIPE / "hparams" / args.hparams, {"data_folder": ""})
    small.update((key, 0) for key in RANDOM if key in keys)
    for precision, tolerance in (("fp32", 1e-3), ("bf16", 2e-2)):
        losses = []
        for gpus in (1, args.gpus[-1]):
            output = folder / f"check-{precision}-{gpus}"
            run(
                *(args, gpus, output),
                **small,
                number_of_epochs=1,
                batches_per_epoch=20,
                valid_interval=1,
                batch_size=BATCH // gpus,
                sync_batchnorm=True,
                precision=precision,
            )
            losses.append(records(output)[0]["train_loss"])
        off = abs(losses[1] / losses[0] - 1)
        print(f"{precision}: {losses[0]:.6f} and {losses[1]:.6f}", flush=True)
        if off > tolerance:
            raise SystemExit(f"they differ by {off:.2%}")


def resume(args, folder):
    """Stopped and started again, with the same bits."""
    for gpus in args.gpus:
        outputs = [folder / f"{kind}-{gpus}" for kind in ("whole", "stopped")]
        options = {
            "number_of_epochs": 3,
            "batches_per_epoch": args.steps,
            "valid_interval": 1,
            "batch_size": BATCH,
        }
        run(args, gpus, outputs[0], **options)
        process = start(args, gpus, outputs[1], **options)
        # The first evaluation says that it is training.
        while process.poll() is None:
            if (outputs[1] / "metrics.jsonl").exists():
                break
            time.sleep(0.01)
        time.sleep(args.steps * 0.4e-3)
        process.send_signal(signal.SIGTERM)
        # torchrun has a status of its own.
        text = finish(process, statuses=(STOPPED, 1, -signal.SIGTERM))
        stops = [line for line in text.splitlines() if "Stopped " in line]
        print(f"{gpus} GPUs:", *stops[:1])
        run(args, gpus, outputs[1], **options)
        one, other = map(state, outputs)
        differing = [
            key
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        ]
        if differing or not stops or metrics(outputs[0]) != metrics(outputs[1]):
            raise SystemExit(f"not the same: {differing[:5]}")
        print(
            f"{gpus} GPUs: {len(one)} tensors and other values, and the "
            "metrics, are the same, bit for bit",
            flush=True,
        )


def main():
    """Print what was asked for."""
    parser = command_line(__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--steps",
        type=int,
        help="between two evaluations; 16000, or 1000 with --resume",
    )
    parser.add_argument("--hparams", default="am_sincnet_m005.yaml")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="of the recipe, such as --option=precision=fp32",
    )
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    args.steps = args.steps or (1000 if args.resume else 16000)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine(device)}, batch {BATCH} per GPU, {args.hparams}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        args.corpus = corpus(folder, speakers=8)
        if args.check:
            check(args, folder)
        (resume if args.resume else speed)(args, folder)


if __name__ == "__main__":
    main()
