"""Checks what offshoot wrote with tools that nobody here wrote. Prints one JSON line; an assertion that fails is the message.

    python scripts/interop.py onnx FILE.onnx PREDICTIONS      onnx, onnxruntime, numpy, pillow
    python scripts/interop.py whole FILE.onnx PREDICTIONS     onnx, onnxruntime, numpy, pillow
    python scripts/interop.py int8 FILE.onnx PREDICTIONS      onnx, onnxruntime, numpy, pillow
    python scripts/interop.py foreign FILE.onnx PREDICTIONS SIZE      onnxruntime, numpy, pillow
    python scripts/interop.py weights FILE.safetensors        safetensors, numpy
    python scripts/interop.py pytorch FILE.safetensors PREDICTIONS    torch, torchvision
    python scripts/interop.py torchscript FILE.pt PREDICTIONS         torch, torchvision
    python scripts/interop.py scripted FILE.pt PREDICTIONS            torch
    python scripts/interop.py labels FILE.pt PREDICTIONS              torch
    python scripts/interop.py make FOLDER MODEL SIZE                  torch, torchvision, timm
    python scripts/interop.py export FOLDER SIZE                      torch, torchvision
    python scripts/interop.py same FILE.pt OTHER.pt SIZE              torch

PREDICTIONS is what `offshoot predict FILE PICTURES.. --logits --json` printed: pictures are prepared here from their files, as
the metadata in FILE says, and the logits computed from them must be the printed ones to 1e-4 of the largest, with the same best
class for each picture. `whole` gives a file that prepares its pictures the decoded pictures in ONNX Runtime, and reports how
far its resizing takes pixels and logits from ours. `int8` gives a file of integers to ONNX Runtime, which rounds on its own: the best class must be
the printed one on 99 % of the pictures, and it reports how far the logits lie apart, with its optimisations and without (then it
computes in floats what the file says). `foreign` runs a file of another converter on pictures prepared as is
assumed for one (its shorter side 8/7 of SIZE, its middle, ImageNet's mean and std), in the file's layout. `scripted` gives the file the pictures as they are, as bytes and as floats, and reports how far its
own resizing takes the logits from the printed ones. `make` traces and scripts a model of random weights into FOLDER, and
`same` checks that two archives compute the same, that PyTorch freezes and optimises the first, and that their keys agree.
"""

import contextlib
import json
import re
import sys

import numpy as np

TOLERANCE = 1e-4
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling


def opened(path, steps):
    """A picture as RGB: rotated, laid over the background."""
    from PIL import Image, ImageOps

    picture = Image.open(path)
    if steps["exif_rotation"]:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        top = picture.convert("RGBA")
        ground = Image.new("RGBA", top.size, (*steps["background"], 255))
        picture = Image.alpha_composite(ground, top)
    return picture.convert("RGB")


def prepare(path, steps):
    """The network's input for a picture: fit, normalise."""
    picture = fit(opened(path, steps), steps)
    x = np.asarray(picture, np.float32) / np.float32(255)
    x = (x - np.float32(steps["mean"])) / np.float32(steps["std"])
    return x.transpose(2, 0, 1)


def fit(picture, steps):
    from PIL import Image

    size, filter = steps["size"], FILTERS[steps["interpolation"]]
    width, height = picture.size
    if steps["fit"] == "pad":
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(steps["background"]))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        picture = square
    elif steps["fit"] == "crop":
        # torchvision's Resize and CenterCrop.
        resize = steps["resize"]
        short, long = min(width, height), max(width, height)
        long = int(resize * long / short)
        picture = picture.resize((resize, long) if width <= height else (long, resize), filter)
        left, top = (int(round((side - size) / 2.0)) for side in picture.size)
        return picture.crop((left, top, left + size, top + size))
    return picture.resize((size, size), filter)


def predictions(path):
    rows = [json.loads(line) for line in open(path)]
    assert rows, f"{path} is empty"
    return [row["path"] for row in rows], np.array([row["logits"] for row in rows])


def compare(found, wanted):
    """The largest difference relative to the largest logit, after the checks."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert difference < TOLERANCE, f"differs by {difference} of the largest logit"
    same = (found.argmax(1) == wanted.argmax(1)).sum()
    assert same == len(wanted), f"top-1 differs on {len(wanted) - same} of {len(wanted)} pictures"
    return {"pictures": len(wanted), "top1_equal": int(same), "difference": difference}


def check_onnx(path, printed):
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    (imported,) = model.opset_import
    assert imported.domain == "" and 13 <= imported.version <= 21, imported
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    leftovers = {"Dropout", "Identity"} & {node.op_type for node in model.graph.node}
    # One behind anything else than a convolution cannot be folded.
    leftovers |= {n.op_type for n in model.graph.node if n.op_type == "BatchNormalization" and made_by.get(n.input[0]) == "Conv"}
    assert not leftovers, f"training left {leftovers}"
    (entry,), (result,) = model.graph.input, model.graph.output
    assert (entry.name, result.name) == ("input", "output"), (entry.name, result.name)
    metadata = json.loads({p.key: p.value for p in model.metadata_props}["offshoot"])
    paths, wanted = predictions(printed)
    assert len(metadata["classes"]) == wanted.shape[1]
    x = np.stack([prepare(path, metadata["preprocessing"]) for path in paths])
    session = onnxruntime.InferenceSession(path)
    report = {"classes": metadata["classes"]}
    for batch in [1, 2, 7, 32]:
        parts = [session.run(["output"], {"input": x[i : i + batch]})[0] for i in range(0, len(x), batch)]
        report[f"batch {batch}"] = compare(np.concatenate(parts), wanted)
    return report


def check_int8(path, printed):
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    metadata = json.loads({p.key: p.value for p in model.metadata_props}["offshoot"])
    paths, wanted = predictions(printed)
    x = np.stack([prepare(path, metadata["preprocessing"]) for path in paths])
    operators = sorted({node.op_type for node in model.graph.node})
    weights = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    report = {"pictures": len(paths), "operators": operators, "types": sorted(set(weights.values()))}
    levels = onnxruntime.GraphOptimizationLevel
    for name, level in [("optimised", levels.ORT_ENABLE_ALL), ("as_written", levels.ORT_DISABLE_ALL)]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(path, options)
        parts = [session.run(["output"], {"input": x[i : i + 8]})[0] for i in range(0, len(x), 8)]
        found = np.concatenate(parts)
        same = float((found.argmax(1) == wanted.argmax(1)).mean())
        difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        assert same >= 0.99, f"{name}: top-1 is the same on {same} of the pictures"
        report[name] = {"top1_equal": same, "difference": difference}
    return report


def check_whole(path, printed):
    """A file that prepares its pictures, on the decoded ones: by itself each, and two of a size as a batch."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    metadata = json.loads({p.key: p.value for p in model.metadata_props}["offshoot"])
    steps = metadata["preprocessing"]
    std = np.float32(steps["std"])[:, None, None]
    model.graph.output.append(onnx.ValueInfoProto(name="input"))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    paths, wanted = predictions(printed)
    found, levels, furthest, exact = [], [], 0.0, 0
    for path in paths:
        pixels = np.asarray(opened(path, steps))[None]
        logits, prepared = session.run(["output", "input"], {"image": pixels})
        (twice,) = session.run(["output"], {"image": np.concatenate([pixels, pixels])})
        assert np.allclose(twice, logits, rtol=0, atol=1e-5 * np.abs(logits).max()), path
        change = np.abs((prepared[0] - prepare(path, steps)) * std * 255)
        levels.append(change.mean())
        furthest, exact = max(furthest, float(change.max())), exact + int(change.max() < 0.01)
        found.append(logits[0])
    found = np.stack(found)
    return {
        "pictures": len(wanted),
        "top1_equal": int((found.argmax(1) == wanted.argmax(1)).sum()),
        "difference": float(np.abs(found - wanted).max() / np.abs(wanted).max()),
        "same_pixels": exact,
        "furthest_pixel": furthest,
        "mean_pixel": float(np.mean(levels)),
        "worst_mean_pixel": float(np.max(levels)),
    }


def check_foreign(path, printed, size):
    """A file of another converter: what we print for it are its own logits, or it ends in a Softmax."""
    import onnxruntime

    size = int(size)
    steps = {
        "size": size, "resize": -(-size * 8 // 7), "fit": "crop", "interpolation": "bilinear", "background": [255] * 3,
        "exif_rotation": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    (entry,) = session.get_inputs()
    paths, logits = predictions(printed)
    x = np.stack([prepare(path, steps) for path in paths])
    if entry.shape[-1] == 3:
        x = x.transpose(0, 2, 3, 1)
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 7
    x = x[: len(x) // batch * batch]
    parts = [session.run(None, {entry.name: x[i : i + batch]})[0] for i in range(0, len(x), batch)]
    found, wanted = np.concatenate(parts), logits[: len(x)]
    if np.allclose(found.sum(1), 1, atol=1e-4):
        wanted = np.exp(wanted - wanted.max(1, keepdims=True))
        wanted /= wanted.sum(1, keepdims=True)
    return compare(found, wanted)


def check_weights(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        raw = file.metadata()
        assert sorted(raw) == ["offshoot", "offshoot_sha256"], sorted(raw)
        metadata = json.loads(raw["offshoot"])
        shapes = {key: file.get_tensor(key).shape for key in file.keys()}
        finite = all(np.isfinite(file.get_tensor(key)).all() for key in file.keys())
    assert finite and metadata["architecture"] and metadata["preprocessing"]["size"]
    return {"tensors": len(shapes), "classes": metadata["classes"], "architecture": metadata["architecture"]}


def torchvision_model(metadata):
    """torchvision's own network, with the head that the metadata names in the place of its last layer."""
    import torchvision
    from torch import nn

    name = metadata["architecture"]
    sized = {"image_size": metadata["preprocessing"]["size"]} if name.startswith("vit") else {}
    model = getattr(torchvision.models, name)(**sized)
    path, last = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    classes, inputs = len(metadata["classes"]), last.weight.shape[1]
    kind, dropout = re.fullmatch(r"(linear|mlp:\d+)(?:,dropout=([\d.]+))?", metadata["head"]).groups()
    head = nn.Linear(inputs, classes) if isinstance(last, nn.Linear) else nn.Conv2d(inputs, classes, 1)
    if kind != "linear":
        hidden = int(kind.removeprefix("mlp:"))
        dropped = nn.Dropout(float(dropout or 0))
        head = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), dropped, nn.Linear(hidden, classes))
    model.set_submodule(path, head)
    return model


def check_pytorch(path, printed):
    import torch
    from safetensors.torch import load_file, safe_open

    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["offshoot"])
    model = torchvision_model(metadata)
    model.load_state_dict(load_file(path), strict=True)
    paths, wanted = predictions(printed)
    x = torch.from_numpy(np.stack([prepare(path, metadata["preprocessing"]) for path in paths]))
    with torch.no_grad():
        found = torch.cat([model.eval()(part) for part in x.split(32)]).numpy()
    return compare(found, wanted)


def check_torchscript(path, printed):
    """The traced form, at several batches, frozen and optimised; its state dict fits the network it came from."""
    import torch

    extra = {"offshoot.json": "", "classes.json": "", "preprocessing.json": ""}
    model = torch.jit.load(path, _extra_files=extra)
    metadata = json.loads(extra["offshoot.json"])
    assert json.loads(extra["classes.json"]) == metadata["classes"]
    assert json.loads(extra["preprocessing.json"]) == metadata["preprocessing"]
    original = torchvision_model(metadata)
    assert list(original.state_dict()) == list(model.state_dict())
    original.load_state_dict(model.state_dict(), strict=True)
    paths, wanted = predictions(printed)
    x = torch.from_numpy(np.stack([prepare(path, metadata["preprocessing"]) for path in paths]))
    forms = {
        "loaded": model,
        "frozen": torch.jit.freeze(model),
        "optimised": torch.jit.optimize_for_inference(torch.jit.load(path)),
        "original": original.eval(),
    }
    report = {"classes": metadata["classes"]}
    with torch.no_grad():
        for name, form in forms.items():
            for batch in [1, 2, 7, 32]:
                part = x[: 4 * batch]
                found = torch.cat([form(rows) for rows in part.split(batch)]).numpy()
                report[f"{name}, batch {batch}"] = compare(found, wanted[: 4 * batch])
    return report


def check_ships(onnx, torchscript, printed):
    """The same network as ONNX and as TorchScript."""
    return {"onnx": check_onnx(onnx, printed), "torchscript": check_torchscript(torchscript, printed)}


def check_scripted(path, printed):
    """The scripted form on the pictures themselves. """
    import torch

    extra = {"offshoot.json": ""}
    model = torch.jit.load(path, _extra_files=extra)
    metadata = json.loads(extra["offshoot.json"])
    steps = metadata["preprocessing"]
    std = np.float32(steps["std"])[:, None, None]
    paths, wanted = predictions(printed)
    paths, wanted = paths[::4], wanted[::4]  # each new size is compiled, which takes a second
    found, levels, furthest = [], [], 0.0
    with torch.no_grad():
        for path in paths:
            pixels = torch.from_numpy(np.asarray(opened(path, steps)).copy()).permute(2, 0, 1)
            logits = model(pixels)
            batch = model(torch.stack([pixels, pixels]).float() / 255)
            assert torch.allclose(batch[0], logits[0], rtol=0, atol=1e-3 * float(logits.abs().max())), path
            labels, probabilities = model.classify(pixels)
            assert labels == [metadata["classes"][int(logits.argmax())]]
            assert torch.allclose(probabilities, (logits / metadata.get("temperature", 1)).softmax(1))
            prepared = model.preprocess(pixels)[0].numpy()
            change = np.abs((prepared - prepare(path, steps)) * std * 255)
            levels.append(change.mean())
            furthest = max(furthest, float(change.max()))
            found.append(logits[0].numpy())
    found = np.stack(found)
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    same = int((found.argmax(1) == wanted.argmax(1)).sum())
    assert furthest < 2.5, f"a pixel differs by {furthest} of 255"
    assert max(levels) <= 0.1, f"the pixels of a picture differ by {max(levels)} of 255 in the mean"
    return {
        "pictures": len(wanted),
        "top1_equal": same,
        "difference": difference,
        "furthest_pixel": furthest,
        "mean_pixel": float(np.mean(levels)),
    }


# Heights and widths: odd, upright, long, small, a line, a pixel.
AWKWARD = [(999, 1001), (400, 300), (97, 485), (487, 97), (9, 7), (1, 37), (53, 1), (1, 1), (224, 224)]


def check_labels(path, printed):
    """The scripted form of a model of several labels: its labels and probabilities of the pictures themselves."""
    import torch
    from PIL import Image

    model = torch.jit.load(path).eval()
    equal, difference = 0, 0.0
    for line in map(json.loads, open(printed, encoding="utf-8")):
        with Image.open(line["path"]) as picture:
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.uint8).transpose(2, 0, 1).copy())
        with torch.no_grad():
            (labels,), probabilities = model.classify(pixels)
        equal += labels == line["labels"]
        found = torch.logit(probabilities.double())[0].numpy()
        difference = max(difference, float(np.abs(found - np.array(line["logits"])).max()))
    return {"labels_equal": equal, "difference": difference}


def awkward(folder):
    """Pictures of noise, where borders and filters show most."""
    from PIL import Image

    numbers = np.random.default_rng(0)
    for height, width in AWKWARD:
        picture = Image.fromarray(numbers.integers(0, 256, (height, width, 3), np.uint8))
        picture.save(f"{folder}/{height}x{width}.png")
    return {"pictures": len(AWKWARD)}


def check_whole_script(path, printed):
    """Our TorchScript that prepares its pictures, on the decoded ones."""
    import torch

    extra = {"offshoot.json": ""}
    model = torch.jit.load(path, _extra_files=extra)
    steps = json.loads(extra["offshoot.json"])["preprocessing"]
    std = np.float32(steps["std"])[:, None, None]
    paths, wanted = predictions(printed)
    levels, furthest, found = [], 0.0, []
    with torch.no_grad():
        for path in paths:
            pixels = torch.from_numpy(np.asarray(opened(path, steps)).transpose(2, 0, 1).copy())
            change = np.abs((model.preprocess(pixels).numpy()[0] - prepare(path, steps)) * std * 255)
            levels.append(float(change.mean()))
            furthest = max(furthest, float(change.max()))
            found.append(model(pixels).numpy()[0])
    found = np.stack(found)
    return {
        "top1_equal": int((found.argmax(1) == wanted.argmax(1)).sum()),
        "difference": float(np.abs(found - wanted).max() / np.abs(wanted).max()),
        "furthest_pixel": furthest,
        "mean_pixel": float(np.mean(levels)),
        "worst_mean_pixel": max(levels),
    }


def pattern(batch, size):
    count = batch * 3 * size * size
    numbers = (7919 * np.arange(count)) % 1000 / 500 - 1
    return numbers.astype(np.float32).reshape(batch, 3, size, size)


def make(folder, name, size):
    """MODEL_trace.pt and MODEL_script.pt, with norms that are not the identity."""
    import timm
    import torch
    import torchvision

    torch.manual_seed(1)
    ours = hasattr(torchvision.models, name)
    model = getattr(torchvision.models, name)() if ours else timm.create_model(name)
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand_like(tensor) + (0.5 if key.endswith("var") else -0.5))
    model.eval()
    example = torch.from_numpy(pattern(1, int(size)))
    torch.jit.trace(model, example).save(f"{folder}/{name}_trace.pt")
    torch.jit.script(model).save(f"{folder}/{name}_script.pt")
    return {"made": name}


def export(folder, size):
    """torchvision's classifiers through both of PyTorch's exporters, in the opsets that each writes."""
    import torch
    import torchvision

    torch.manual_seed(2)
    example = torch.from_numpy(pattern(2, int(size)))
    dynamic = {"dynamic_axes": {"x": {0: "n"}}}
    both = {"dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}}
    batch = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
    rows = [("resnet18", False, v, dynamic) for v in (9, 11, 13, 17)]
    rows += [("mobilenet_v2", False, v, {}) for v in (10, 12, 18)] + [("resnet50", False, 16, both)]
    rows += [(name, True, v, batch) for name, v in [("resnet18", 18), ("mobilenet_v2", 20), ("resnet50", 22), ("mobilenet_v2", 23)]]
    files = []
    for name, dynamo, opset, options in rows:
        model = getattr(torchvision.models, name)().eval()
        file = f"{name}_{'dynamo' if dynamo else 'trace'}_{opset}{'_any' if options is both else ''}.onnx"
        torch.onnx.export(
            model, (example,), f"{folder}/{file}", input_names=["x"], dynamo=dynamo, opset_version=opset, **options
        )
        files.append(file)
    return {"files": files}


def check_same(path, other, size):
    import torch

    first, second = torch.jit.load(path), torch.jit.load(other)
    assert list(first.state_dict()) == list(second.state_dict())
    report = {}
    forms = {
        "loaded": first,
        "frozen": torch.jit.freeze(first),
        "optimised": torch.jit.optimize_for_inference(torch.jit.load(path)),
    }
    with torch.no_grad():
        for batch in [1, 2, 7]:
            x = torch.from_numpy(pattern(batch, int(size)))
            wanted = second(x).numpy()
            for name, form in forms.items():
                report[f"{name}, batch {batch}"] = compare(form(x).numpy(), wanted)
    report["logits"] = second(torch.from_numpy(pattern(7, int(size)))).flatten().tolist()
    return report


if __name__ == "__main__":
    checks = {
        "onnx": check_onnx,
        "int8": check_int8,
        "whole": check_whole,
        "foreign": check_foreign,
        "weights": check_weights,
        "pytorch": check_pytorch,
        "torchscript": check_torchscript,
        "ships": check_ships,
        "scripted": check_scripted,
        "labels": check_labels,
        "awkward": awkward,
        "whole_script": check_whole_script,
        "make": make,
        "export": export,
        "same": check_same,
    }
    with contextlib.redirect_stdout(sys.stderr):
        result = checks[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
