"""Runs a TorchScript file for `offshoot bench formats`: pytorch.py FILE THREADS.

First a line of JSON: {"torch": VERSION}. Then, for each line {"steps": N, "shape": [..]} with that many f32 after it on
standard input, a line {"milliseconds": [..], "shape": [..]} and the logits of the last step as f32. Or, at any time and as
the last line, {"error": TEXT}.
"""
import sys

sys.path[:] = [folder for folder in sys.path if folder]  # nothing from the working folder

import json
import math
import os
import time

# Whatever a library prints goes elsewhere.
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


def answer(message, data=b""):
    answers.write(json.dumps(message).encode() + b"\n" + data)
    answers.flush()


def main(path, threads):
    import torch

    torch.set_num_threads(int(threads))
    torch.set_num_interop_threads(1)
    model = torch.jit.load(path, map_location="cpu").eval()
    model = torch.jit.optimize_for_inference(torch.jit.freeze(model))
    answer({"torch": torch.__version__})
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        shape = asked["shape"]
        data = bytearray(sys.stdin.buffer.read(4 * math.prod(shape)))
        images = torch.frombuffer(data, dtype=torch.float32).reshape(shape)
        milliseconds = []
        with torch.inference_mode():
            for _ in range(asked["steps"]):
                start = time.perf_counter()
                logits = model(images)
                milliseconds.append((time.perf_counter() - start) * 1e3)
        logits = logits.float().contiguous()
        answer({"milliseconds": milliseconds, "shape": list(logits.shape)}, logits.numpy().tobytes())


try:
    main(*sys.argv[1:])
except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    answer({"error": f"{type(error).__name__}: {lines[-1]}"})
