"""Puts what runs made into the package: `builtin` and `builtin:emotion` are made so.

python benchmarks/embed.py encoder RUN    of sertune distil
python benchmarks/embed.py emotion RUN    of sertune train --encoder builtin

The cards beside them are written by hand.
"""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from sertune.model.builtin import EMBEDDED


def embed_encoder(run: Path) -> None:
    """Weights in float16 without the positions, which are a formula; of the configuration what they don't tell."""
    made, into = run / "encoder", EMBEDDED / "encoder"
    weights = {
        name.removeprefix("encoder."): tensor.half().contiguous()
        for name, tensor in load_file(made / "model.safetensors").items()
        if "embed_positions" not in name
    }
    into.mkdir(parents=True, exist_ok=True)
    save_file(weights, into / "model.safetensors")
    (into / "model.safetensors").chmod(0o644)
    told = json.loads((made / "config.json").read_text(encoding="utf-8"))
    keys = ("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim")
    text = json.dumps({key: told[key] for key in keys}, indent=1)
    (into / "config.json").write_text(text + "\n", encoding="utf-8")


def embed_emotion(run: Path) -> None:
    into = EMBEDDED / "emotion"
    into.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "model.json"):
        shutil.copyfile(run / "model" / name, into / name)
        (into / name).chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["encoder", "emotion"])
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    (embed_encoder if options.what == "encoder" else embed_emotion)(options.run)


if __name__ == "__main__":
    main()
