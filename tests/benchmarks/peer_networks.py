"""SpeechBrain's ECAPA-TDNN and x-vector, trained on audio in memory.

Features, loss, optimizer and augmentation are those of SpeechBrain's recipe
for VoxCeleb, without what it downloads: noise and rooms are drawn on the
device. As in our recipes the audio lies there, too, chunks are drawn there,
and forward, backward and update are captured as a CUDA graph.
"""

import math
import time
from collections import deque
from functools import partial

import torch
import torch.nn.functional as F
from peers import in_batches
from speechbrain.augment.time_domain import (
    AddNoise,
    DropFreq,
    FastDropChunk,
    pink_noise_like,
)
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.processing.features import InputNormalization

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks
from amsincnet_sb.nnet.augmentation import RandomEqualizer, RandomMixture
from amsincnet_sb.nnet.channels import RandomChannel, RandomReverberation
from amsincnet_sb.training.captured_step import CapturedStep

RATE, MELS = 16000, 80
NETWORKS = "ecapa", "xvector"
WARMUP, FINAL = 0.02, 0.01  # share of a cosine schedule; of the learning rate
MAX_GRAD_NORM = 5.0  # as in SpeechBrain where nothing else is said
AHEAD = 8  # steps that the GPU may be behind


def _noise(device, samples, batch):
    noise = partial(
        pink_noise_like, alpha_low=0.0, alpha_high=1.0, sample_rate=RATE
    )
    add = AddNoise(snr_low=0, snr_high=15, noise_funct=noise)
    return lambda wavs: add(wavs, torch.ones(len(wavs), device=device))


def _reverb(device, samples, batch):
    return RandomChannel([RandomReverberation(probability=1.0)])


def _freq(device, samples, batch):
    return DropFreq()


def _chunk(device, samples, batch):
    drop = FastDropChunk(1000, 2000, 1, 5, n_masks=max(256, batch))
    # Its masks are made by thousands of small operations: not on a GPU.
    drop.sig_len, drop.first = samples, False
    drop.dropped_masks = drop.initialize_masks(torch.empty(1, samples))
    drop.dropped_masks = drop.dropped_masks.to(device)
    return drop


# What changes every chunk, as in our recipes ...
OURS = {"equalizer": RandomEqualizer, "mixture": RandomMixture}
# ... and what makes one more copy of a batch, as in SpeechBrain's.
THEIRS = {"noise": _noise, "reverb": _reverb, "freq": _freq, "chunk": _chunk}


class PeerNetwork(torch.nn.Module):
    """An embedding of utterances, and a class vector for each speaker.

    ``channels`` are those of the convolutions: 512 or 1024 of an ECAPA-TDNN,
    512 of an x-vector. ``dropout`` is ECAPA-TDNN's; x-vectors have none.
    """

    def __init__(self, kind, channels, dropout, classes):
        super().__init__()
        self.fbank = Fbank(n_mels=MELS)
        self.normalise = InputNormalization(
            norm_type="sentence", std_norm=False
        )
        if kind == "ecapa":
            size, widths = 192, [channels] * 4 + [3 * channels]
            self.network = ECAPA_TDNN(
                MELS, channels=widths, lin_neurons=size, dropout=dropout
            )
        else:
            size, widths = 512, [channels] * 4 + [1500 * channels // 512]
            self.network = Xvector(
                tdnn_channels=widths, lin_neurons=size, in_channels=MELS
            )
        self.classifier = Classifier(size, out_neurons=classes)

    def features(self, wavs):
        """``[batch, time]`` -> ``[batch, frames, mels]``."""
        return self.normalise(self.fbank(wavs))

    @torch.inference_mode()
    def embed(self, waves):
        """Embeddings of whole waveforms ``[T]``, ``[waves, size]``."""
        self.eval()
        device = self.classifier.weight.device

        def embed(batch):
            """``[batch, size]``."""
            return self.network(self.features(batch.to(device))).squeeze(1)

        return in_batches(embed, waves)


class Augmentation:
    """Changes a batch, and adds a changed copy of it for each of THEIRS.

    Where ``distinct``, it gets as many times as many chunks, and each change
    its own share of them.
    """

    def __init__(self, options, device, samples):
        names, self.distinct = options.augment, options.distinct
        self.everywhere = [OURS[name]() for name in names if name in OURS]
        self.changes = [
            THEIRS[name](device, samples, options.batch)
            for name in names
            if name in THEIRS
        ]
        self.copies = 1 + len(self.changes)

    def __call__(self, wavs, labels):
        for change in self.everywhere:
            wavs = change(wavs)
        if self.distinct:
            parts = wavs.chunk(self.copies)
        else:
            parts = [wavs] * self.copies
            labels = labels.repeat(self.copies)
        changed = [
            change(part) for change, part in zip(self.changes, parts[1:])
        ]
        return torch.cat([parts[0], *changed]), labels


def at_speed(wave, speed):
    """A waveform ``[T]`` so many times as fast, with the pitch that goes up."""
    samples = round(len(wave) / speed)
    spectrum = torch.fft.rfft(wave)
    return torch.fft.irfft(spectrum, samples) * (samples / len(wave))


def training_audio(waves, labels, options):
    """The waveforms and their copies at other speeds, and how many classes."""
    classes, rows = max(labels) + 1, list(zip(waves, labels))
    for nth, speed in enumerate(options.speeds, 1):
        shift = nth * classes * options.speed_speakers
        rows += [
            (at_speed(wave, speed), label + shift)
            for wave, label in zip(waves, labels)
        ]
    waves, labels = zip(*rows)
    audio = ResidentAudio(list(waves), labels, range(len(rows)))
    return audio, max(labels) + 1


def learning_rate(progress, options):
    """At a share of the training; ``triangular`` is one cycle of the recipe's."""
    if options.schedule == "triangular":
        return options.lr * max(1e-5, 1 - abs(2 * progress - 1))
    if progress < WARMUP:
        return options.lr * progress / WARMUP
    angle = math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP))
    return options.lr * (FINAL + (1 - FINAL) * (1 + math.cos(angle)) / 2)


class Steps:
    """Training steps on chunks of one length."""

    def __init__(self, net, optimizer, audio, seconds, options, seed, average):
        device = audio.samples.device
        samples = round(seconds * RATE)
        self.net, self.optimizer = net, optimizer
        self.augment = Augmentation(options, device, samples)
        self.examples = options.batch * self.augment.copies
        drawn = self.examples if options.distinct else options.batch
        self.chunks = RandomChunks(audio, samples, drawn, 1, seed)
        criterion = LogSoftmaxWrapper(
            AdditiveAngularMargin(options.margin, options.scale)
        )

        def loss_of(features, labels):
            """The loss; ``average`` follows it, to be told at the end."""
            with torch.autocast(
                device.type, torch.bfloat16, enabled=device.type == "cuda"
            ):
                embeddings = net.network(features)
            outputs = net.classifier(embeddings.float())
            loss = criterion(outputs, labels[:, None])
            average.lerp_(loss.detach(), 0.02)
            return loss

        state = [*net.buffers(), average]
        self.step = CapturedStep(
            loss_of, optimizer, MAX_GRAD_NORM, compile=False, state=state
        )

    def __call__(self, number, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            wavs, labels, _ = self.chunks.draw(number)
            wavs, labels = self.augment(wavs, labels)
            features = self.net.features(wavs)
        self.step(number, features, labels)


def train(kind, waves, labels, options, seed, device):
    """Train a network from scratch; returns it and what there is to tell.

    ``labels`` are those of ``waves`` ``[T]``, from 0 without a gap. The time
    budget begins when the step has been captured.
    """
    torch.manual_seed(seed)
    device = torch.device(device)
    cuda = device.type == "cuda"
    audio, classes = training_audio(waves, labels, options)
    audio.to(device)
    net = PeerNetwork(kind, options.channels, options.dropout, classes)
    net.to(device).train()
    optimizer = torch.optim.Adam(
        net.parameters(), options.lr, weight_decay=options.weight_decay
    )
    average = torch.full((), math.log(classes), device=device)
    torch.backends.cudnn.benchmark = True
    kinds = [
        Steps(net, optimizer, audio, seconds, options, seed, average)
        for seconds in options.crop
    ]
    for steps in kinds:
        steps(0, 0.0)
    if cuda:
        torch.cuda.synchronize()
    begin, number, behind = time.perf_counter(), 0, deque()

    def progress():
        """From 0 to 1."""
        if options.steps:
            return number / options.steps
        return (time.perf_counter() - begin) / options.seconds

    while (share := progress()) < 1:
        kinds[number % len(kinds)](number, learning_rate(share, options))
        number += 1
        if cuda:
            behind.append(torch.cuda.Event())
            behind[-1].record()
            if len(behind) > AHEAD:
                behind.popleft().synchronize()
    loss = float(average)  # waits for the device
    took = time.perf_counter() - begin
    torch.backends.cudnn.benchmark = False
    return net, {
        "steps": number,
        "seconds": took,
        "examples": number * kinds[0].examples,
        "classes": classes,
        "parameters": sum(p.numel() for p in net.parameters()),
        "loss": loss,
        "skipped_steps": sum(len(each.step.read_skipped()) for each in kinds),
        "captured": all(each.step.captured for each in kinds),
    }


def unit_vectors(net, speakers):
    """Class vectors of the first speakers, ``[speakers, size]``."""
    return F.normalize(net.classifier.weight.detach()[:speakers].cpu(), dim=1)
