//! A pickle machine that builds inert values and calls nothing.
//!
//! Opcodes: [`pickletools`](https://github.com/python/cpython/blob/main/Lib/pickletools.py), protocols 0 to 5
//! without the extension registry and out-of-band buffers, which `torch.save` does not write.

use std::collections::HashMap;
use std::io::BufRead;

use super::MAX_PICKLE_STEPS;
use super::calls;
use super::input::Input;
use super::values::{Heap, Node, Value};
use crate::error::Problem;

/// The longest name of a module or a class. A pickle can refer to one long text again and again: the limit keeps the
/// copies small.
const MAX_NAME: usize = 1024;

/// What a pickle described.
pub(super) struct Pickled {
    pub(super) heap: Heap,
    pub(super) root: Value,
}

/// Reads one pickle, up to its STOP.
pub(super) fn read<R: BufRead>(input: &mut Input<R>) -> Result<Pickled, Problem> {
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
        if opcode == b'.' {
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
            0x80 => self.input.byte().map(drop),       // PROTO
            0x95 => self.input.array::<8>().map(drop), // FRAME
            // Plain values.
            b'N' => self.push(Value::None),          // NONE
            0x88 => self.push(Value::Plain("bool")), // NEWTRUE
            0x89 => self.push(Value::Plain("bool")), // NEWFALSE
            b'I' | b'L' => self.text_integer(),      // INT, LONG
            b'J' => self.integer::<4>(true),         // BININT
            b'K' => self.integer::<1>(false),        // BININT1
            b'M' => self.integer::<2>(false),        // BININT2
            0x8a => self.long::<1>(),                // LONG1
            0x8b => self.long::<4>(),                // LONG4
            b'F' => self.input.line().and_then(|_| self.push(Value::Plain("float"))), // FLOAT
            b'G' => self.input.array::<8>().and_then(|_| self.push(Value::Plain("float"))), // BINFLOAT
            b'S' | b'V' => self.text_line(),         // STRING, UNICODE
            b'U' | 0x8c => self.text::<1>(),         // SHORT_BINSTRING, SHORT_BINUNICODE
            b'T' | b'X' => self.text::<4>(),         // BINSTRING, BINUNICODE
            0x8d => self.text::<8>(),                // BINUNICODE8
            b'C' => self.skip_bytes::<1>(),          // SHORT_BINBYTES
            b'B' => self.skip_bytes::<4>(),          // BINBYTES
            0x8e | 0x96 => self.skip_bytes::<8>(),   // BINBYTES8, BYTEARRAY8
            // Containers.
            b')' => self.push_node(Node::Tuple(vec![])), // EMPTY_TUPLE
            b']' | 0x8f => self.push_node(Node::List(vec![])), // EMPTY_LIST, EMPTY_SET
            b'}' => self.push_node(Node::Dict(vec![])),  // EMPTY_DICT
            0x85 => self.short_tuple(1),                 // TUPLE1
            0x86 => self.short_tuple(2),                 // TUPLE2
            0x87 => self.short_tuple(3),                 // TUPLE3
            b't' => self.marked().and_then(|items| self.push_node(Node::Tuple(items))), // TUPLE
            b'l' | 0x91 => self.marked().and_then(|items| self.push_node(Node::List(items))), // LIST, FROZENSET
            b'd' => self.marked_dict(),                                                       // DICT
            b'a' => self.append(),                                                            // APPEND
            b'e' | 0x90 => self.marked().and_then(|items| self.extend(items)), // APPENDS, ADDITEMS
            b's' => self.set_item(),                                           // SETITEM
            b'u' => self.marked().and_then(|items| self.set_items(items)),     // SETITEMS
            // Stack and memo.
            b'(' => self.mark(),                                    // MARK
            b'0' => self.pop_or_unmark(),                           // POP
            b'1' => self.marked().map(drop),                        // POP_MARK
            b'2' => self.top().and_then(|value| self.push(value)),  // DUP
            b'p' => self.line_number().and_then(|at| self.put(at)), // PUT
            b'q' => self.number::<1>().and_then(|at| self.put(at)), // BINPUT
            b'r' => self.number::<4>().and_then(|at| self.put(at)), // LONG_BINPUT
            0x94 => self.put(self.memo.len() as u64),               // MEMOIZE
            b'g' => self.line_number().and_then(|at| self.get(at)), // GET
            b'h' => self.number::<1>().and_then(|at| self.get(at)), // BINGET
            b'j' => self.number::<4>().and_then(|at| self.get(at)), // LONG_BINGET
            // Names and calls.
            b'c' => self.global(),            // GLOBAL
            0x93 => self.stack_global(),      // STACK_GLOBAL
            b'Q' => self.persistent_id(),     // BINPERSID
            b'R' => self.reduce(),            // REDUCE
            b'i' => self.instance_of_line(),  // INST
            b'o' => self.instance_of_stack(), // OBJ
            0x81 => self.new_object(1),       // NEWOBJ
            0x92 => self.new_object(2),       // NEWOBJ_EX
            b'b' => self.build(),             // BUILD
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
            "00" | "01" => Value::Plain("bool"),
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
            Node::Object(_) => {} // a placeholder has no content
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
            Node::Object(_) => {} // a placeholder has no content
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

    /// An instance that Python makes without calling its initialiser: a placeholder.
    fn new_object(&mut self, arguments: usize) -> Result<(), Problem> {
        for _ in 0..arguments {
            self.pop()?;
        }
        match self.pop()? {
            Value::Global(class) => self.push_node(Node::Object(class)),
            _ => Err(self.input.damaged("an instance of something that is not a class")),
        }
    }

    /// Attributes of an object: none of ours has any.
    fn build(&mut self) -> Result<(), Problem> {
        self.pop()?;
        self.top().map(drop)
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
