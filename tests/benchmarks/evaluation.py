"""Time of embedding evaluation windows against a straightforward port.

Claim: with the full model on two cores, at least 3 times the windows a second
of the network as it stands, in evaluation mode and batches of 128. The fast
rows prepare the network once (filters, batch normalisation folded into the
other layers) and take 1024 windows of a waveform, every 10 ms one, as a
strided view. All rows take turns in one process; see train_step.py.

    python tests/benchmarks/evaluation.py [--network sinc_tdnn]

With ``--device cuda`` a whole evaluation is timed instead, as the recipe does
it: the 1386 test utterances of TIMIT (noise of 1.75 to 3.75 s each), their
windows, decisions and errors. Claim: at most 1.5 s on one GPU.
"""

import statistics
import time

import torch
from train_step import NETWORKS, command_line, in_turns, machine, print_table

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import SlidingWindows
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.frozen import Folded, FoldedTDNN, for_evaluation
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.training.device import has_bfloat16
from amsincnet_sb.training.metrics import SentenceErrors

WINDOWS = 1024


def on_cpu(args):
    """Some windows, in turns."""
    net = NETWORKS[args.network](fast=False).eval()
    wav = 0.1 * torch.randn(net.window + (WINDOWS - 1) * net.hop)
    windows = wav.unfold(0, net.window, net.hop)

    def straightforward():
        """One window after the other, in batches of 128."""
        with torch.no_grad():
            for part in windows.split(128):
                net.embed_windows(part)

    kind = Folded if args.network == "sincnet" else FoldedTDNN
    folded = kind(net), kind(net, torch.bfloat16)
    print(f"evaluation of {args.network}, {WINDOWS} windows; {machine('cpu')}")
    rows = {
        "straightforward, float32": straightforward,
        "folded, float32": lambda: folded[0].embed_windows(windows),
        "folded, bfloat16": lambda: folded[1].embed_windows(windows),
        "preparation": lambda: kind(net),
    }
    if not has_bfloat16("cpu"):
        del rows["folded, bfloat16"]
    print_table(in_turns(rows, 7), WINDOWS)


def noise(sentences):
    """So many test sentences on the GPU, three a speaker."""
    lengths = torch.randint(28000, 60000, (sentences,)).tolist()
    return ResidentAudio(
        [torch.randint(-9000, 9000, (n,)) / 32768 for n in lengths],
        [i // 3 for i in range(sentences)],
        [str(i) for i in range(sentences)],
    ).to("cuda")


@torch.no_grad()
def on_gpu(args):
    """All test sentences, several times; of the plain version a tenth."""
    print(f"evaluation of {args.network}; {machine('cuda')}")
    print("| version | sentences | windows | s, median | first | GiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    base = None
    # As in the recipe: SpeechBrain allows it.
    torch.set_float32_matmul_precision("high")
    fp16 = torch.float16
    for name, fast, dtype, size, sentences, turns in (
        ("straightforward, float32", False, None, 128, 139, 3),
        ("fast, TF32 matmuls", True, torch.float32, 4096, 1386, 7),
        ("fast, float16 matmuls", True, fp16, 4096, 1386, 7),
    ):
        audio = noise(sentences)
        net = NETWORKS[args.network](fast=fast).to("cuda").eval()
        head = CosineClassifier(net.embedding_size, 462).to("cuda").eval()
        windows = SlidingWindows(audio, net.window, net.hop, size)
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(turns):
            torch.cuda.synchronize()
            start = time.perf_counter()
            embed = for_evaluation(net, dtype) if fast else net
            errors = SentenceErrors(audio.labels)
            for batch in windows:
                scores = head(embed(batch.sig.data))
                errors.append(batch.utterance, log_posteriors(scores, 30.0))
            errors.summarize()
            times.append(time.perf_counter() - start)
        count = int(windows.counts.sum())
        each = statistics.median(times) / count
        base = base or each
        print(
            f"| {name} | {sentences} | {count} | {statistics.median(times):.3f}"
            f" | {times[0]:.3f} | {torch.cuda.max_memory_allocated() / 2**30:.2f}"
            f" | {base / each:.2f} |",
            flush=True,
        )


def main():
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--network", default="sincnet", choices=NETWORKS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    on_gpu(args) if args.device == "cuda" else on_cpu(args)


if __name__ == "__main__":
    main()
