//! Archives that are damaged or mean harm: one error that says where, in little memory and time.

use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use crate::archives::{self, Entries, archive};
use crate::onnx_support::mobile;
use offshoot_formats::torchscript::{self, Options};

const CODE: &str = "code/__torch__/offshoot.py";
const HEAD: &str = "class Model(Module):\n  training : bool\n";

/// The entries of the golden archive in our own layout, without metadata.
fn entries(name: &str) -> Entries {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torchscript").join(name);
    let mut bytes = Cursor::new(Vec::new());
    let model = torchscript::read(&path, None).unwrap().model;
    torchscript::write_to(&mut bytes, &model, Options::default()).unwrap();
    archives::entries(bytes.get_ref())
}

/// The golden archive with one entry replaced.
fn with(name: &str, content: impl Into<Vec<u8>>) -> Vec<u8> {
    let mut entries = entries("tiny_trace.pt");
    let entry = entries.iter_mut().find(|(n, _)| n == name).unwrap();
    entry.1 = content.into();
    archive(&entries)
}

fn refusal(bytes: &[u8]) -> String {
    torchscript::read_bytes(bytes, None).unwrap_err().to_string()
}

/// A model whose `forward` has these lines.
fn forward(lines: &str) -> Vec<u8> {
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    with(
        CODE,
        format!("{HEAD}  def forward(self: __torch__.offshoot.Model,\n    x: Tensor) -> Tensor:\n{body}"),
    )
}

#[test]
fn control_flow_of_every_kind_is_followed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/torchscript/control.py");
    let file = torchscript::read_bytes(&with(CODE, std::fs::read(path).unwrap()), None).unwrap();
    let ops: Vec<&str> = file.model.graph.nodes().iter().map(|n| n.op.name()).collect();
    assert_eq!(
        ops.join(" "),
        "Conv Relu Sigmoid Mul Add Sigmoid Mul Add MaxPool MaxPool Dropout Clip Clip GlobalAveragePool Flatten Gemm"
    );
}

#[test]
fn code_that_is_not_read_names_its_line() {
    for (lines, what) in [
        ("y = torch.fft_fft(x)\nreturn y", "line 5: `torch.fft_fft`: this operator is not read"),
        ("y = x\nreturn torch.conv2d(y, 3)", "line 6: `torch.conv2d`: its weight is an integer"),
        ("return torch.relu(y)", "line 5: `torch.relu`: its argument 0 is a function"),
        ("return torch.relu()", "line 5: `torch.relu`: its argument 0 is missing"),
        ("return open(\"/etc/passwd\")", "line 5: `open` is not read"),
        ("return os.system(\"true\")", "line 5: `os.system` is not read"),
        (
            "return (self.stem).explode(x, )",
            "it has no code for the class `__torch__.offshoot.Container_stem`",
        ),
        ("return self.absent", "line 5: the module `` has no attribute `absent`"),
        ("return CONSTANTS.c0", "line 5: there is no constant `c0`"),
        ("return x", "the result is [batch_size, 3, 224, 224]"),
        ("return 3", "the result is an integer"),
        ("pass", "the result is None"),
        ("a, b, = x", "line 5: a computed tensor is taken apart into 2 names"),
        ("if torch.gt(torch.size(x, 0), 1):\n  pass\nreturn x", "line 5: this `if` depends on the batch"),
        ("for i in range(torch.size(x, 0)):\n  pass\nreturn x", "line 5: this loop depends on the batch"),
        ("for i in x:\n  pass\nreturn x", "line 5: only loops over `range`"),
        ("x[0] = 1", "line 5: only names are assigned to"),
        ("y = {1: 2}", "line 5: dictionaries are not read"),
        ("y = torch.relu(x", "a bracket is not closed"),
        ("y = = x", "line 5: an expression is missing"),
        ("y = torch.flatten(x, 1)\nz = torch.relu_(x)\nreturn y", "the result shares memory"),
        (
            "y = torch.flatten(x, 1)\nz = torch.relu_(x)\nreturn torch.relu(y)",
            "line 7: `torch.relu`: its input shares memory",
        ),
        (
            "return torch.conv2d(x, getattr(self.stem, \"0\").weight, None, [0, 1])",
            "line 5: `torch.conv2d`: stride is [0, 1]",
        ),
        ("return torch.pad(x, [99999999, 0, 0, 0])", "line 5: `torch.pad`: only padding"),
        ("return torch.max_pool2d(x, [2, 2], [1, 1], [9, 9])", "line 5: `torch.max_pool2d`: its padding"),
        ("y = torch.add(9223372036854775807, 1)\nreturn x", "line 5: `torch.add`"),
        ("y = torch.div(1, 0)\nreturn x", "line 5: `torch.div`"),
        ("y = (1,)\nfor i in range(300000):\n  y = (y,)\nreturn x", "line 7: lists nest too deep"),
        ("y = [1]\nz = [y]\na = torch.append(y, 2)\nreturn x", "line 7: a list is appended to"),
        ("y = torch.size(x)\na = torch.append(y, 2)\nreturn x", "line 6: a list is appended to"),
        (
            "y = [1]\nz = y\na = torch.append(y, 3)\nreturn torch.flatten(x, z[1])",
            "the result is [batch_size, 3, 224, 224]",
        ),
        ("y = [1]\nwhile True:\n  a = torch.append(y, 2)\nreturn x", "line 7: a list has too many elements"),
        (
            "y = torch.__contains__([1, \"a\"], torch.size(x, 0))\nif y:\n  pass\nreturn x",
            "line 5: `torch.__contains__`",
        ),
    ] {
        let message = refusal(&forward(lines));
        assert!(message.contains(what), "{lines}\n{message}");
    }
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let weight = "getattr(self.stem, \"0\").weight";
    let mut wrong = Vec::new();
    for (call, what) in [
        (format!("torch.conv2d(x, {weight}, None, [2, 2], \"same\")"), "padding `same` with these strides"),
        (format!("torch.conv2d(x, {weight}, None, 1, \"odd\")"), "padding `odd`"),
        (format!("torch.conv2d(x, {weight}, None, 1, \"same\", 32769)"), "its padding is too large"),
        (format!("torch.conv2d(x, {weight}, None, 1, 0, 1, 0)"), "its number of groups is not above 0"),
        (
            format!("torch.convolution(x, {weight}, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1)"),
            "transposed convolutions",
        ),
        (format!("torch.transpose({weight}, 0, 1)"), "of what is stored only matrices"),
        ("torch.max_pool2d(x, [3, 3], [1, 1], [2, 1])".into(), "its padding is more than half"),
        ("torch.max_pool2d(x, [3, 3], [1, 1], [1, 2])".into(), "its padding is more than half"),
        ("torch.max_pool2d(x, [3, 3], [1, 1], 0, [1, 2])".into(), "pooling with dilation"),
        ("torch.max_pool2d(x, [])".into(), "it has no kernel size"),
        ("torch.max_pool2d(x, [1, 2, 3])".into(), "kernel_size is [1, 2, 3], not two numbers from 1"),
        ("torch.avg_pool2d(x, 2, 2, 0, False, True, 3)".into(), "a divisor of its own"),
        ("torch.adaptive_avg_pool2d(x, [3, 7])".into(), "only pools to one pixel"),
        ("torch.pad(x, [1])".into(), "1 sides are padded of 4 axes"),
        ("torch.pad(x, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1])".into(), "10 sides are padded of 4 axes"),
        ("torch.pad(x, [1, 1], \"circular\")".into(), "only padding with a number, reflect"),
        ("torch.upsample_nearest2d(x, None, None)".into(), "it has neither a size nor factors"),
        (
            "torch.upsample_nearest2d(x, [2, 2], 2., 2.)".into(),
            "its factors give [448, 448] pixels, its size is [2, 2]",
        ),
        (
            "torch.upsample_nearest2d(x, [112, 46])".into(),
            "PyTorch rounds to another pixel than the nearest from 224 to 46",
        ),
        ("torch._upsample_bilinear2d_aa(x, [448, 223], False)".into(), "antialiasing is read where"),
        ("torch._upsample_bilinear2d_aa(x, [448, 448], True)".into(), "antialiasing is read where"),
        ("torch.lstm(x, [x, x], [], True, 1, 0., True, False, False)".into(), "saved in training mode"),
        ("torch.lstm(x, [x, x], [], True, 1, 0., False, False, False)".into(), "another state than zeros"),
        ("torch.lstm(x, [], [], True, 1, 0., False, False, False)".into(), "it starts from 0 states"),
        (
            "torch.lstm(x, [torch.zeros([1]), torch.zeros([1])], [], True, 1, 0., False, False, False)"
                .into(),
            "it has 0 weights",
        ),
        (
            "torch.gru(x, torch.zeros([1]), [self.stem, x], False, 1, 0., False, False, False)".into(),
            "one of its weights is a module",
        ),
        ("torch.upsample_nearest2d(x, None, [2.])".into(), "its factors are not two numbers"),
        ("torch.dropout(x, 0.5, True)".into(), "saved in training mode"),
        ("torch.to(x, 3)".into(), "only types of floats"),
        ("torch.sum(x, [1], False, dtype=3)".into(), "only types of floats"),
        ("torch.t(x)".into(), "only matrices are transposed"),
        ("torch.slice(x, 2, 0, 8, 2)".into(), "only steps of one"),
        ("torch.split(x, 0, 1)".into(), "its size is not above 0"),
        ("torch.split(x, [2, -1], 1)".into(), "one of its sizes is below 0"),
        ("torch.split(x, 1, 0)".into(), "the axis has no known size"),
        ("torch.chunk(x, 0, 1)".into(), "its number of parts is not above 0"),
        ("torch.squeeze(x, 0)".into(), "it would remove the batch"),
        ("torch.squeeze(x)".into(), "it would remove the batch"),
        ("torch.cat([], 1)".into(), "its list is empty"),
        ("torch.stack([], 1)".into(), "its list is empty"),
        ("torch.permute(x, [0, 1, 2, 4])".into(), "axis 4 is outside of 4"),
        ("torch.add(x, x, alpha=2)".into(), "alpha other than 1"),
        ("torch.div(x, x, rounding_mode=\"floor\")".into(), "division with rounding"),
        ("torch.max(x)".into(), "only the extreme of two tensors"),
        ("torch.gelu(x, \"tanh\")".into(), "only the exact form"),
        ("torch.logical_not(x)".into(), "its argument 0 is no boolean"),
        ("torch.mean(x)".into(), "only a reduction along given axes"),
        ("torch.norm(x, 3, [1])".into(), "the norm of order 3 is not read"),
        ("torch.layer_norm(x, [])".into(), "its normalized shape"),
    ] {
        let message = refusal(&forward(&format!("y = {call}\nreturn y")));
        let name = call.split('(').next().unwrap();
        if !(message.contains(&format!("line 5: `{name}`")) && message.contains(what)) {
            wrong.push(format!("{call}: {message}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The largest number that an operator takes, and one more.
#[test]
fn parts_of_an_axis_have_a_largest_number() {
    let split = |size: usize, call: &str| {
        let lines = format!("y = torch.upsample_nearest2d(x, [{size}, 8])\nz = {call}\nreturn z");
        refusal(&forward(&lines))
    };
    for call in ["torch.split(y, 1, 2)", "torch.chunk(y, 257, 2)", "torch.unbind(y, 2)"] {
        assert!(split(256, call).contains("the result is a list"), "{call}");
        assert!(split(257, call).contains("at most 256 parts"), "{call}");
    }
}

#[test]
fn endless_and_bottomless_code_ends() {
    let double = "a = [1, 1]\n".to_owned() + &"a = torch.add(a, a)\n".repeat(40) + "return x";
    for (lines, what) in [
        ("while True:\n  pass\nreturn x", "too many steps"),
        ("for i in range(9223372036854775807):\n  pass\nreturn x", "too many steps"),
        ("return (self).forward(x, )", "nest too deep"),
        ("while True:\n  x = torch.relu(x)\nreturn x", "too many operators"),
        (&format!("return {}x{}", "torch.relu(".repeat(60), ")".repeat(60)), "the result is"),
        (&format!("return {}x{}", "torch.relu(".repeat(70), ")".repeat(70)), "brackets nest deeper"),
        (&format!("return x{}", ".a".repeat(100)), "an expression has too many parts"),
        (&format!("return [{}]", "1, ".repeat(300)), "a list has too many elements"),
        (&format!("return [{}]", "1, ".repeat(100_000)), "a list has too many elements"),
        (&double, "`torch.add`"),
        ("return 1e999999999", "the result is a number"),
    ] {
        let start = Instant::now();
        let message = refusal(&forward(lines));
        assert!(message.contains(what), "{lines:.60}\n{message}");
        assert!(start.elapsed().as_secs() < 20, "{lines:.60}");
    }
    let blocks: String = (0..40).map(|depth| format!("{}if True:\n", "  ".repeat(depth))).collect();
    assert!(refusal(&forward(&format!("{blocks}{}pass", "  ".repeat(40)))).contains("blocks nest deeper"));
}

#[test]
fn a_bomb_of_code_is_not_unpacked() {
    let message = refusal(&with(CODE, vec![b'\n'; 64 << 20]));
    assert!(message.contains("offshoot.py") && message.contains("above the limit"), "{message}");
    let message = refusal(&with("data.pkl", vec![b'N'; 256 << 20]));
    assert!(message.contains("data.pkl") && message.contains("above the limit"), "{message}");
}

#[test]
fn a_tensor_larger_than_the_file_is_not_allocated() {
    let pickle = entries("tiny_trace.pt").into_iter().find(|(name, _)| name == "data.pkl").unwrap().1;
    // The first weight's shape is (8, 3, 3, 3): BININT with four bytes each.
    let shape = b"J\x08\0\0\0J\x03\0\0\0";
    let at = pickle.windows(10).position(|w| w == shape).unwrap();
    let mut huge = pickle.clone();
    huge[at + 1..at + 5].copy_from_slice(&i32::MAX.to_le_bytes());
    assert!(refusal(&with("data.pkl", huge)).contains("reach beyond its storage"));
    let mut negative = pickle;
    negative[at + 1..at + 5].copy_from_slice(&(-1i32).to_le_bytes());
    assert!(refusal(&with("data.pkl", negative)).contains("_rebuild_tensor_v2"));
}

#[test]
fn modules_that_contain_themselves_are_followed_once() {
    // root = Model(); root.training = False; root.stem = root; root.loop = root
    let mut pickle = b"\x80\x02c__torch__.offshoot\nModel\n)\x81q\x00}(".to_vec();
    pickle.extend(b"X\x08\0\0\0training\x89X\x04\0\0\0stemh\x00X\x04\0\0\0looph\x00ub.");
    let code = format!(
        "{HEAD}  def forward(self: __torch__.offshoot.Model,\n    x: Tensor) -> Tensor:\n    return self.stem.loop.forward(x, )\n"
    );
    let mut all = entries("tiny_trace.pt");
    for (name, content) in &mut all {
        match name.as_str() {
            "data.pkl" => content.clone_from(&pickle),
            CODE => *content = code.clone().into_bytes(),
            _ => {}
        }
    }
    assert!(refusal(&archive(&all)).contains("nest too deep"));
}

#[test]
fn every_cut_is_noticed() {
    let mut bytes = Cursor::new(Vec::new());
    torchscript::write_to(&mut bytes, &mobile(false), Options::default()).unwrap();
    let bytes = bytes.into_inner();
    for len in (0..bytes.len()).step_by(97) {
        assert!(torchscript::read_bytes(&bytes[..len], None).is_err(), "{len}");
    }
}

#[test]
fn every_flipped_byte_is_noticed_or_harmless() {
    let bytes = archive(&entries("name_of_21_characters.pt"));
    let before = torchscript::read_bytes(&bytes, None).unwrap().model;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        if let Ok(file) = torchscript::read_bytes(&flipped, None) {
            assert_eq!(file.model.graph.nodes().len(), before.graph.nodes().len(), "byte {at}");
        }
    }
}
