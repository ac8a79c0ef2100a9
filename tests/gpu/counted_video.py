"""Memory of the masks of a video at the published size of SAM2, counted on fake CUDA: python tests/gpu/counted_video.py [--frames 24]

Weights in bfloat16. A minute or two on a quiet core. What the language model takes of the frames that it sees is not in it.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
GIB, MIB = 2**30, 2**20


def count(frames: int, objects: int, original: bool) -> tuple[float, float, float, list[float]]:
    """GiB of the weights, of the peak beside them, MiB that is kept after the last frame, and what each frame adds to it."""
    import torch
    from fakecuda import FakeCuda
    from standin import new_model, to_fake
    from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

    from plugins.models.sa2va.tracking import Memory, Original, track
    from plugins.models.sa2va.video import Video

    class Pictures:
        def __len__(self) -> int:
            return frames

        def __getitem__(self, number: int) -> torch.Tensor:
            return torch.zeros(1, 3, 1024, 1024, dtype=torch.uint8).to("cuda")

    mode, values = FakeCuda(), {"dtype": "bfloat16", "train": ["sam2_decoder"]}
    with mode:
        model = new_model("1B/1", values, None)
        network = model.network
        with torch.device("meta"):
            memory = Memory(network.config)
            decoder = Sam2MaskDecoder(network.sam2.config.mask_decoder_config)
        extra = [memory, decoder] if original else [memory]
        for part in (network.sam2, *extra):
            for parameter in part.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
            part.requires_grad_(False).eval()
            model.add_module(f"part{len(model._modules)}", part)  # so that it is put on the device, too
        del model.network.vision, model.network.projector, model.network.llm, model.network.text_hidden_fcs
        to_fake(model, ["sam2_decoder"])
        fixed = mode.live
        prompts = torch.zeros(objects, network.config.mask_width, dtype=torch.bfloat16, device="cuda")
        seen = Video("uniform").seen(frames) if original else None
        mode.peak, kept = mode.live, []
        for logits in track(network, memory, Pictures(), prompts, seen, Original(decoder, (720, 1280)) if original else None):
            del logits
            kept.append((mode.live - fixed) / MIB)
        peak = mode.peak
    return fixed / GIB, (peak - fixed) / GIB, kept[-1], [after - before for before, after in pairwise(kept)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--objects", type=int, action="append", metavar="K", help="objects at once; again for more (default: 1 and 5)")
    given = parser.parse_args()
    import fakedevice

    if lacks := fakedevice.missing():
        sys.exit(lacks)
    fakedevice.load()
    for objects in given.objects or [1, 5]:
        for original in (False, True):
            fixed, peak, kept, added = count(given.frames, objects, original)
            way = "uniform, original" if original else "first, tuned"
            more = f"{max(added):.2f} MiB a tracked frame at first, {added[-1]:.2f} at the end"
            print(
                f"{way:18} {objects} objects: weights {fixed:.2f} GiB, beside them {peak:.2f} GiB; kept {kept:.1f} MiB, {more}", flush=True
            )


if __name__ == "__main__":
    main()
