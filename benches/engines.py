"""Other engines, which repeat a step until they are stopped and print when each run started and ended: see `benches/turns`."""
import contextlib, sys, time

from environment import build, export


def repeat(step):
    while True:
        start = time.time()
        step()
        print(f"{start:.6f} {time.time():.6f}", flush=True)


def arrays(shapes, batch, size):
    """An array for each input, (whole numbers, dims): an open dimension is `batch` where it is the first, else `size`."""
    import numpy
    for whole, dims in shapes:
        dims = [d if isinstance(d, int) else (size if axis else batch) for axis, d in enumerate(dims)]
        yield numpy.random.randint(0, 1000, dims) if whole else numpy.random.randn(*dims).astype("f4")


def onnxruntime(onnx, batch, threads, size, precision):
    if precision != "f32":
        sys.exit("ONNX Runtime computes in the types of the file")
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    values = arrays([("int" in given.type, given.shape) for given in session.get_inputs()], batch, size)
    feeds = dict(zip(names, values))
    return lambda: session.run(None, feeds)


def openvino(onnx, batch, threads, size, precision):
    import openvino
    core = openvino.Core()
    model = core.read_model(onnx)
    shapes = [("i" in p.element_type.to_string(), [d.get_length() if d.is_static else None for d in p.partial_shape])
              for p in model.inputs]
    values = list(arrays(shapes, batch, size))
    # The sizes are fixed: what it does best.
    model.reshape({p: list(value.shape) for p, value in zip(model.inputs, values)})
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": {"fp16": "f16"}.get(precision, precision)}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer(values, share_inputs=True, share_outputs=True)


def pytorch(layout, head):
    def step(name, batch, threads, size, precision):
        import torch
        torch.set_num_threads(threads)
        form = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}[layout]
        model = build(name, size).to(memory_format=form).train()
        if head:
            # Frozen batch norms use their running statistics, as they do in offshoot.
            model.eval().requires_grad_(False)
            classifier = model.get_classifier() if hasattr(model, "get_classifier") else list(model.children())[-1]
            classifier.train().requires_grad_(True)
        x = torch.randn(batch, 3, size, size).to(memory_format=form)
        y = torch.arange(batch)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")

        def one():
            optimizer.zero_grad()
            with torch.autocast("cpu", half) if half else contextlib.nullcontext():
                loss = torch.nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        # The first steps are slower: the allocator has not seen the sizes yet.
        for _ in range(5):
            one()
        return one

    return step


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", name, onnx, size]:
            export(name, onnx, int(size))
        case [step, engine, source, batch, threads, size, precision]:
            make = pytorch(engine, step == "head") if step != "infer" else {"onnxruntime": onnxruntime, "openvino": openvino}[engine]
            repeat(make(source, int(batch), int(threads), int(size), precision))
