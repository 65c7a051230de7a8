"""What an encoder costs: seconds for an hour of audio, peak memory, size. Each in a process of its own.

python benchmarks/encoders.py FOLDER ENCODER ... [--clips 60]

FOLDER holds audio. `wav2vec2-base` is that model's configuration with random weights, where it can't be downloaded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CROP = 15.0
ROUNDS = 3


def measure(folder: str, encoder: str, clips: int) -> dict[str, float]:
    import torch

    from sertune.data.audio import find_audio, read_audio
    from sertune.model.encoder import load_encoder
    from sertune.train.device import _peak_resident_mib

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        name = random_wav2vec2(Path(made)) if encoder == "wav2vec2-base" else encoder
        found = load_encoder(name, check=False)
    files = find_audio([folder])
    audio = [read_audio(file, found.rate, crop=CROP) for file in files[:: max(1, len(files) // clips)][:clips]]
    seconds = sum(map(len, audio)) / found.rate
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for clip in audio:
            found.clip_states(clip, None)
        times.append(time.perf_counter() - began)
    parameters = sum(p.numel() for name, p in found.model.named_parameters() if "embed_positions" not in name)
    return {
        "parameters": parameters,
        "seconds_per_hour": 3600 * min(times) / seconds,
        "peak_mib": _peak_resident_mib(),
        "audio_seconds": seconds,
    }


def random_wav2vec2(folder: Path) -> str:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--one", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.folder, options.encoders[0], options.clips)))
        return
    print("| encoder | parameters | s per hour of audio | peak memory (MiB) |\n|---|---|---|---|")
    for encoder in options.encoders:
        command = [sys.executable, __file__, options.folder, encoder, "--clips", str(options.clips), "--one"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        shown = encoder if encoder.startswith(("builtin", "wav2vec2")) else Path(encoder).name
        print(
            f"| {shown} | {row['parameters']:,} | {row['seconds_per_hour']:.1f} | {row['peak_mib']:,.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
