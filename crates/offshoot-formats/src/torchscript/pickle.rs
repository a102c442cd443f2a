//! The pickles of an archive: protocol 2, as PyTorch's own reader takes them.

use crate::pth::opcodes as op;

/// A tensor's place in the archive.
pub(super) struct TensorRecord<'a> {
    /// The name of its file.
    pub(super) key: String,
    /// `FloatStorage`, `LongStorage`.
    pub(super) storage: &'static str,
    pub(super) shape: &'a [usize],
    pub(super) requires_grad: bool,
}

/// A pickle being written.
pub(super) struct Pickler {
    bytes: Vec<u8>,
}

impl Pickler {
    pub(super) fn new() -> Pickler {
        Pickler { bytes: vec![op::PROTO, 2] }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(op::STOP);
        self.bytes
    }

    pub(super) fn mark(&mut self) {
        self.bytes.push(op::MARK);
    }

    /// Everything since the mark as a tuple.
    pub(super) fn tuple(&mut self) {
        self.bytes.push(op::TUPLE);
    }

    pub(super) fn none(&mut self) {
        self.bytes.push(op::NONE);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.bytes.push(if value { op::NEWTRUE } else { op::NEWFALSE });
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes.push(op::BINUNICODE);
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.push(op::GLOBAL);
        self.bytes.extend(format!("{module}\n{name}\n").as_bytes());
    }

    fn int(&mut self, value: usize) {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(op::BININT);
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([op::LONG1, 8]);
                self.bytes.extend((value as u64).to_le_bytes());
            }
        }
    }

    fn ints(&mut self, values: impl IntoIterator<Item = usize>) {
        self.mark();
        values.into_iter().for_each(|value| self.int(value));
        self.tuple();
    }

    /// Begins an instance of a class of the code; its attributes, names before values, come next.
    pub(super) fn begin_object(&mut self, module: &str, class: &str) {
        self.global(module, class);
        self.bytes.extend([op::EMPTY_TUPLE, op::NEWOBJ, op::EMPTY_DICT, op::MARK]);
    }

    pub(super) fn end_object(&mut self) {
        self.bytes.extend([op::SETITEMS, op::BUILD]);
    }

    /// A `List[str]`.
    pub(super) fn texts(&mut self, texts: &[String]) {
        self.global("torch.jit._pickle", "restore_type_tag");
        self.mark();
        self.bytes.extend([op::EMPTY_LIST, op::MARK]);
        texts.iter().for_each(|text| self.text(text));
        self.bytes.push(op::APPENDS);
        self.text("List[str]");
        self.tuple();
        self.bytes.push(op::REDUCE);
    }

    /// A dense tensor that is the whole of its storage.
    pub(super) fn tensor(&mut self, tensor: &TensorRecord<'_>) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.mark();
        self.mark();
        self.text("storage");
        self.global("torch", tensor.storage);
        self.text(&tensor.key);
        self.text("cpu");
        self.int(tensor.shape.iter().product());
        self.tuple();
        self.bytes.push(op::BINPERSID);
        self.int(0);
        self.ints(tensor.shape.iter().copied());
        self.ints(strides(tensor.shape));
        self.bool(tensor.requires_grad);
        self.global("collections", "OrderedDict");
        self.bytes.extend([op::EMPTY_TUPLE, op::REDUCE]);
        self.tuple();
        self.bytes.push(op::REDUCE);
    }
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}
