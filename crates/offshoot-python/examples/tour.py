# %% [markdown]
# # A tour: from pretrained weights to an ONNX file that is proven
#
# It follows the guide's first page: train the head alone, look at the result, unfreeze more, ship it. Editors open this file as a
# notebook; as a script it takes DATA, a MODEL and its WEIGHTS:
#
#     python tour.py photos6 mobilenet_v2 mobilenet_v2.pth

# %%
import sys
from pathlib import Path

import numpy
import onnxruntime
from PIL import Image

import offshoot

data, architecture, weights = (sys.argv[1:] + ["photos6", "mobilenet_v2", None][len(sys.argv) - 1 :])[:3]

# %% [markdown]
# ## Train
#
# With pretrained weights, the head alone is the baseline for everything else: features of the frozen layers are cached, so that it takes
# seconds. Random weights have no features to keep.

# %%
what = {"freeze": "backbone"} if weights else {"lr": 1e-3}
training = offshoot.Training(data, architecture, weights=weights, out="tour", epochs=8, batch_size=8, fit="pad", **what)
for epoch in training:  # tqdm(training) shows a bar
    print(f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, validation accuracy {epoch.val_accuracy:.1%}")
result = training.result
print(f"best epoch {result.best_epoch}: {result.best_val_accuracy:.1%}")

# %%
print(result.to_pandas()[["epoch", "train_loss", "val_loss", "val_accuracy"]])

# %% [markdown]
# ## Look
#
# The model is used with the preprocessing that it was trained with, whatever form a picture has.

# %%
model = result.load()
pictures = sorted(path for path in Path(data).glob("**/*") if path.suffix in (".png", ".jpg"))[:6]
for prediction in model.predict(pictures, top=3):
    print(prediction)
print(model.evaluate().to_pandas())

# %% [markdown]
# ## Ship
#
# The file is read back and compared with the model before it gets its name. With `with_preprocess` it prepares its pictures itself: its
# input are the pixels of a picture of any size.

# %%
exported = model.export("onnx", out="tour.onnx", with_preprocess=True)
print(f"{exported.path}: {exported.bytes} bytes, largest difference of a logit {exported.max_abs_diff:.1e}")
compared = model.verify(exported.path)
print(compared)

# %% [markdown]
# ## Compare with ONNX Runtime

# %%
session = onnxruntime.InferenceSession(exported.path)
difference = 0.0
for path in pictures:
    pixels = numpy.asarray(Image.open(path).convert("RGB"))
    (theirs,) = session.run(None, {session.get_inputs()[0].name: pixels[None]})
    difference = max(difference, float(numpy.abs(theirs[0] - model.logits(pixels)).max()))
print(f"largest difference from ONNX Runtime: {difference:.1e}")
