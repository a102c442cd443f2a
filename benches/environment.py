"""What the benchmarks here run, with which Python, and the peers' networks."""
import os, pathlib, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = pathlib.Path(os.environ.get("OFFSHOOT_PEERS", pathlib.Path.home() / ".cache/offshoot/peers")) / "bin/python"
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"

SIZE = 224  # height and width of the pictures


def with_package(name, script):
    """Goes on where the package `name` is there: here, or by starting `script` again in the peers' environment."""
    try:
        __import__(name)
    except ImportError:
        if pathlib.Path(sys.prefix) == PEERS.parent.parent:
            sys.exit(f"{pathlib.Path(script).name}: needs {name} in the peers' environment: scripts/peers")
        os.execv(PEERS, [str(PEERS), script, *sys.argv[1:]])


def build(name, size=SIZE):
    """A network with random weights, of torchvision or timm (there `tf_NAME` first, whose padding offshoot has)."""
    import timm, torchvision
    if hasattr(torchvision.models, name):
        return getattr(torchvision.models, name)(weights=None, **({"image_size": size} if name.startswith("vit_") else {}))
    sized = {"img_size": size} if name.startswith("vit_") else {}
    return timm.create_model("tf_" + name if timm.is_model("tf_" + name) else name, num_classes=1000, **sized)


def text(name):
    """A classifier of [rows, steps, elements] with random weights, and its elements; None where `name` is none of these."""
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self, width, *layers):
            super().__init__()
            self.layers, self.head = nn.ModuleList(layers), nn.Linear(width, 10)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
                x = x[0] if isinstance(x, tuple) else x
            return self.head(x.mean(1))

    if name == "transformer":
        return Classifier(512, *(nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True) for _ in range(2))), 512
    return (Classifier(256, nn.LSTM(256, 256, num_layers=2, batch_first=True)), 256) if name == "lstm" else None


def export_text(model, shape, onnx, int8):
    """Writes it as an ONNX file for [steps, elements], in dynamic int8 as ONNX Runtime's quantiser makes it."""
    import torch
    torch.backends.mha.set_fastpath_enabled(False)
    torch.onnx.export(model.eval(), torch.randn(2, *shape), onnx, opset_version=17, dynamo=False, input_names=["input"],
                      output_names=["output"], dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
    if int8:
        from onnxruntime.quantization import quantize_dynamic
        quantize_dynamic(onnx, onnx)


def export(name, onnx, size=SIZE):
    """Writes it as an ONNX file."""
    import torch
    if network := text(name.removesuffix(".int8")):
        model, elements = network
        return export_text(model, (size, elements), onnx, name.endswith(".int8"))
    torch.onnx.export(build(name, size).eval(), torch.randn(2, 3, size, size), onnx, opset_version=17, dynamo=False,
                      input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
