//! A pickle machine that builds inert values and calls nothing.

use std::collections::HashMap;
use std::io::BufRead;

use super::MAX_PICKLE_STEPS;
use super::calls;
use super::input::Input;
use super::opcodes as op;
use super::values::{Heap, Node, Value};
use crate::error::Problem;

/// The longest name of a module or a class. A pickle can refer to one long text again and again: the limit keeps the
/// copies small.
const MAX_NAME: usize = 1024;

/// What a pickle described.
pub(crate) struct Pickled {
    pub(crate) heap: Heap,
    pub(crate) root: Value,
}

/// Reads one pickle, up to its STOP.
pub(crate) fn read<R: BufRead>(input: &mut Input<R>) -> Result<Pickled, Problem> {
    let mut machine = Machine {
        input,
        heap: Heap::default(),
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        steps: 0,
    };
    loop {
        let opcode = machine.input.byte()?;
        machine.count(1)?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            return Ok(Pickled { heap: machine.heap, root });
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a, R> {
    input: &'a mut Input<R>,
    heap: Heap,
    stack: Vec<Value>,
    /// Heights of the stack at the open MARKs.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    steps: u64,
}

impl<R: BufRead> Machine<'_, R> {
    fn step(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            // Framing.
            op::PROTO => self.input.byte().map(drop),
            op::FRAME => self.input.array::<8>().map(drop),
            // Plain values.
            op::NONE => self.push(Value::None),
            op::NEWTRUE => self.push(Value::Bool(true)),
            op::NEWFALSE => self.push(Value::Bool(false)),
            op::INT | op::LONG => self.text_integer(),
            op::BININT => self.integer::<4>(true),
            op::BININT1 => self.integer::<1>(false),
            op::BININT2 => self.integer::<2>(false),
            op::LONG1 => self.long::<1>(),
            op::LONG4 => self.long::<4>(),
            op::FLOAT => self.input.line().and_then(|_| self.push(Value::Plain("float"))),
            op::BINFLOAT => {
                self.input.array().and_then(|bytes| self.push(Value::Float(f64::from_be_bytes(bytes))))
            }
            op::STRING | op::UNICODE => self.text_line(),
            op::SHORT_BINSTRING | op::SHORT_BINUNICODE => self.text::<1>(),
            op::BINSTRING | op::BINUNICODE => self.text::<4>(),
            op::BINUNICODE8 => self.text::<8>(),
            op::SHORT_BINBYTES => self.skip_bytes::<1>(),
            op::BINBYTES => self.skip_bytes::<4>(),
            op::BINBYTES8 | op::BYTEARRAY8 => self.skip_bytes::<8>(),
            // Containers.
            op::EMPTY_TUPLE => self.push_node(Node::Tuple(vec![])),
            op::EMPTY_LIST | op::EMPTY_SET => self.push_node(Node::List(vec![])),
            op::EMPTY_DICT => self.push_node(Node::Dict(vec![])),
            op::TUPLE1 => self.short_tuple(1),
            op::TUPLE2 => self.short_tuple(2),
            op::TUPLE3 => self.short_tuple(3),
            op::TUPLE => self.marked().and_then(|items| self.push_node(Node::Tuple(items))),
            op::LIST | op::FROZENSET => self.marked().and_then(|items| self.push_node(Node::List(items))),
            op::DICT => self.marked_dict(),
            op::APPEND => self.append(),
            op::APPENDS | op::ADDITEMS => self.marked().and_then(|items| self.extend(items)),
            op::SETITEM => self.set_item(),
            op::SETITEMS => self.marked().and_then(|items| self.set_items(items)),
            // Stack and memo.
            op::MARK => self.mark(),
            op::POP => self.pop_or_unmark(),
            op::POP_MARK => self.marked().map(drop),
            op::DUP => self.top().and_then(|value| self.push(value)),
            op::PUT => self.line_number().and_then(|at| self.put(at)),
            op::BINPUT => self.number::<1>().and_then(|at| self.put(at)),
            op::LONG_BINPUT => self.number::<4>().and_then(|at| self.put(at)),
            op::MEMOIZE => self.put(self.memo.len() as u64),
            op::GET => self.line_number().and_then(|at| self.get(at)),
            op::BINGET => self.number::<1>().and_then(|at| self.get(at)),
            op::LONG_BINGET => self.number::<4>().and_then(|at| self.get(at)),
            // Names and calls.
            op::GLOBAL => self.global(),
            op::STACK_GLOBAL => self.stack_global(),
            op::BINPERSID => self.persistent_id(),
            op::REDUCE => self.reduce(),
            op::INST => self.instance_of_line(),
            op::OBJ => self.instance_of_stack(),
            op::NEWOBJ => self.new_object(1),
            op::NEWOBJ_EX => self.new_object(2),
            op::BUILD => self.build(),
            _ => {
                Err(self.input.damaged(format!("{opcode:#04x} is no pickle instruction that PyTorch writes")))
            }
        }
    }

    /// Counts instructions and copied values, which bounds both time and memory.
    fn count(&mut self, steps: u64) -> Result<(), Problem> {
        self.steps += steps;
        if self.steps <= MAX_PICKLE_STEPS {
            return Ok(());
        }
        let what = "the pickle has too many instructions".into();
        Err(Problem::TooLarge { place: self.input.place(), what, limit: MAX_PICKLE_STEPS })
    }

    // --- stack ---

    fn push(&mut self, value: Value) -> Result<(), Problem> {
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Result<(), Problem> {
        let value = self.heap.add(node);
        self.push(value)
    }

    /// The lowest height that the stack may be popped to.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value, Problem> {
        if self.stack.len() > self.floor()
            && let Some(value) = self.stack.pop()
        {
            return Ok(value);
        }
        Err(self.input.damaged("the pickle takes a value that is not there"))
    }

    fn top(&mut self) -> Result<Value, Problem> {
        let value = self.pop()?;
        self.stack.push(value.clone());
        Ok(value)
    }

    fn mark(&mut self) -> Result<(), Problem> {
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The values above the last MARK, which is removed.
    fn marked(&mut self) -> Result<Vec<Value>, Problem> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => Err(self.input.damaged("the pickle closes what it did not open")),
        }
    }

    fn pop_or_unmark(&mut self) -> Result<(), Problem> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn put(&mut self, at: u64) -> Result<(), Problem> {
        let at = u32::try_from(at).map_err(|_| self.input.damaged("a memo index beyond 32 bits"))?;
        let value = self.top()?;
        self.memo.insert(at, value);
        Ok(())
    }

    fn get(&mut self, at: u64) -> Result<(), Problem> {
        let found = u32::try_from(at).ok().and_then(|at| self.memo.get(&at)).cloned();
        let value = found.ok_or_else(|| self.input.damaged(format!("memo {at} was never stored")))?;
        self.push(value)
    }

    // --- plain values ---

    fn number<const N: usize>(&mut self) -> Result<u64, Problem> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.input.array::<N>()?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn integer<const N: usize>(&mut self, signed: bool) -> Result<(), Problem> {
        let unused = 64 - 8 * N as u32;
        let value = self.number::<N>()? as i64;
        self.push(Value::Int(if signed { value << unused >> unused } else { value }))
    }

    fn line_number(&mut self) -> Result<u64, Problem> {
        let line = self.input.line()?;
        line.trim().parse().map_err(|_| self.input.damaged(format!("`{line}` is not a number")))
    }

    fn text_integer(&mut self) -> Result<(), Problem> {
        let line = self.input.line()?;
        let value = match line.as_str() {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            _ => line.trim_end_matches('L').parse().map_or(Value::Plain("int"), Value::Int),
        };
        self.push(value)
    }

    fn long<const N: usize>(&mut self) -> Result<(), Problem> {
        let count = self.number::<N>()?;
        let bytes = self.input.bytes(count)?;
        if bytes.len() > 8 {
            return self.push(Value::BigInt(bytes.into()));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    /// A length of `N` bytes and as much text. Python 2 wrote byte strings here: what is not UTF-8 is no name.
    fn text<const N: usize>(&mut self) -> Result<(), Problem> {
        let count = self.number::<N>()?;
        let bytes = self.input.bytes(count)?;
        self.push(String::from_utf8(bytes).map_or(Value::Plain("bytes"), |text| Value::Text(text.into())))
    }

    /// Text to the end of the line, quoted (STRING) or bare (UNICODE). Escapes are kept as they are written.
    fn text_line(&mut self) -> Result<(), Problem> {
        let line = self.input.line()?;
        let bare = line.trim_matches(['\'', '"']);
        self.push(Value::Text(bare.into()))
    }

    fn skip_bytes<const N: usize>(&mut self) -> Result<(), Problem> {
        let count = self.number::<N>()?;
        self.input.bytes(count)?;
        self.push(Value::Plain("bytes"))
    }

    // --- containers ---

    fn short_tuple(&mut self, len: usize) -> Result<(), Problem> {
        let mut items = vec![Value::None; len];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push_node(Node::Tuple(items))
    }

    fn marked_dict(&mut self) -> Result<(), Problem> {
        let items = self.marked()?;
        self.push_node(Node::Dict(vec![]))?;
        self.set_items(items)
    }

    fn append(&mut self) -> Result<(), Problem> {
        let item = self.pop()?;
        self.extend(vec![item])
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<(), Problem> {
        match self.target()? {
            Node::List(list) => list.extend(items),
            Node::Object { .. } => {} // a placeholder has no content
            _ => return Err(self.input.damaged("items for something that is not a list")),
        }
        Ok(())
    }

    fn set_item(&mut self) -> Result<(), Problem> {
        let (value, key) = (self.pop()?, self.pop()?);
        self.set_items(vec![key, value])
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), Problem> {
        if !items.len().is_multiple_of(2) {
            return Err(self.input.damaged("a key without a value"));
        }
        match self.target()? {
            Node::Dict(entries) => {
                let mut items = items.into_iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    entries.push((key, value));
                }
            }
            Node::Object { .. } => {} // a placeholder has no content
            _ => return Err(self.input.damaged("entries for something that is not a dictionary")),
        }
        Ok(())
    }

    /// The compound value on top of the stack.
    fn target(&mut self) -> Result<&mut Node, Problem> {
        match self.top()? {
            Value::Node(index) => Ok(&mut self.heap.nodes[index]),
            _ => Err(self.input.damaged("items for something that holds none")),
        }
    }

    // --- names and calls ---

    fn global(&mut self) -> Result<(), Problem> {
        let (module, name) = (self.input.line()?, self.input.line()?);
        self.push(Value::Global(format!("{module}.{name}").into()))
    }

    fn stack_global(&mut self) -> Result<(), Problem> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) if name.len().max(module.len()) <= MAX_NAME => {
                self.push(Value::Global(format!("{module}.{name}").into()))
            }
            _ => Err(self.input.damaged("a class whose name is not a short text")),
        }
    }

    fn persistent_id(&mut self) -> Result<(), Problem> {
        let id = self.pop()?;
        let value = calls::persistent(&mut self.heap, &id).map_err(|fault| self.placed(fault))?;
        self.push(value)
    }

    fn reduce(&mut self) -> Result<(), Problem> {
        let (args, callable) = (self.pop()?, self.pop()?);
        self.call(&callable, args)
    }

    fn instance_of_line(&mut self) -> Result<(), Problem> {
        self.global()?;
        let class = self.pop()?;
        let items = self.marked()?;
        let args = self.heap.add(Node::Tuple(items));
        self.call(&class, args)
    }

    fn instance_of_stack(&mut self) -> Result<(), Problem> {
        let mut items = self.marked()?;
        if items.is_empty() {
            return Err(self.input.damaged("an instance of no class"));
        }
        let class = items.remove(0);
        let args = self.heap.add(Node::Tuple(items));
        self.call(&class, args)
    }

    fn call(&mut self, callable: &Value, args: Value) -> Result<(), Problem> {
        let Value::Global(name) = callable else {
            let what = format!("the pickle calls a value of type {}", self.heap.type_name(callable));
            return Err(self.input.damaged(what));
        };
        let (value, copied) = calls::call(&mut self.heap, name, args).map_err(|fault| self.placed(fault))?;
        self.count(copied)?;
        self.push(value)
    }

    /// An instance that Python makes without calling its initializer: a placeholder.
    fn new_object(&mut self, arguments: usize) -> Result<(), Problem> {
        for _ in 0..arguments {
            self.pop()?;
        }
        match self.pop()? {
            Value::Global(class) => self.push_node(Node::Object { class, state: None }),
            _ => Err(self.input.damaged("an instance of something that is not a class")),
        }
    }

    /// Attributes of an object. Those of other values are dropped.
    fn build(&mut self) -> Result<(), Problem> {
        let attributes = self.pop()?;
        if let Value::Node(index) = self.top()?
            && let Node::Object { state, .. } = &mut self.heap.nodes[index]
        {
            *state = Some(attributes);
        }
        Ok(())
    }

    fn placed(&self, fault: calls::Fault) -> Problem {
        match fault {
            calls::Fault::Forbidden(callable) => {
                Problem::ForbiddenCall { place: self.input.place(), callable }
            }
            calls::Fault::Damaged(what) => self.input.damaged(what),
        }
    }
}
