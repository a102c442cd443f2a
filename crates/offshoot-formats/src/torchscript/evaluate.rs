//! Follows the code of a method from its input to its result. Sizes are computed, branches and loops on what is known
//! are resolved, and each operator on a tensor becomes a node of the graph. Nothing is run.

mod lists;

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::rc::Rc;

use super::parse::{Call, Expression, Function, Statement, StatementKind, Target};
use super::place::Place;
use super::program::Program;
use super::recurrent;
use crate::error::Problem;
use crate::import::aten::sizes::{self, MAX_LIST};
use crate::import::aten::{Aten, Call as OperatorCall, STACKED, Stored, Value};
use crate::pth::values::{Node, Value as Pickle};

/// The most expressions that are followed, and items of lists that are made. ResNet-152 takes some 50,000.
const MAX_STEPS: u32 = 1 << 20;
/// How deep calls, blocks and expressions may nest.
const MAX_DEPTH: u32 = 192;

pub(super) const WAY_OUT: &str = "Give a PyTorch checkpoint with `{model} NAME {weights} FILE` where there is one, or export the model to ONNX";

pub(super) struct Evaluator<'a, R> {
    pub(super) program: &'a mut Program<R>,
    pub(super) aten: Aten,
    steps: u32,
    depth: u32,
    /// Functions that are one operator of the graph.
    recurrent: Vec<(&'static str, Rc<Function>)>,
}

/// One call that is being followed.
struct Frame {
    names: HashMap<Rc<str>, Value>,
    /// The lists that it has written down, by their address.
    lists: HashMap<*const Value, Rc<[Value]>>,
    file: Rc<str>,
    line: u32,
    /// The module whose method it is, or that called the function.
    module: Option<usize>,
}

impl Frame {
    fn new(place: Place, module: Option<usize>) -> Frame {
        let Place { file, line } = place;
        Frame { names: HashMap::new(), lists: HashMap::new(), file, line, module }
    }

    fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line }
    }
}

/// How a block ends.
enum Flow {
    Next,
    Return(Value),
}

impl<'a, R: Read + Seek> Evaluator<'a, R> {
    pub(super) fn new(program: &'a mut Program<R>, aten: Aten) -> Evaluator<'a, R> {
        Evaluator { program, aten, steps: 0, depth: 0, recurrent: recurrent::known() }
    }

    /// What the method `name` of the outermost module makes of `input`, and where it is.
    pub(super) fn run(&mut self, name: &str, input: Value) -> Result<(Value, Place), Problem> {
        let root = self.program.root()?;
        let function = self.method(root, name)?;
        let place = function.place.clone();
        let result =
            self.function(&function, Some(root), vec![Value::Module(root), input], Vec::new(), &place)?;
        Ok((result, place))
    }

    fn method(&mut self, module: usize, name: &str) -> Result<Rc<Function>, Problem> {
        self.program.class(module)?.methods.get(name).cloned().ok_or_else(|| {
            let module = self.program.name(module);
            Problem::damaged(format!("module `{module}`"), format!("it has no method `{name}`"))
        })
    }

    // ---- limits ----

    fn count(&mut self, steps: usize, place: &Place) -> Result<(), Problem> {
        self.steps = self.steps.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
        match self.steps <= MAX_STEPS {
            true => Ok(()),
            false => Err(place.too_large("following the code takes too many steps", MAX_STEPS.into())),
        }
    }

    fn descend(&mut self, place: &Place) -> Result<(), Problem> {
        self.depth += 1;
        match self.depth <= MAX_DEPTH {
            true => Ok(()),
            false => Err(place.too_large("calls and expressions nest too deep", MAX_DEPTH.into())),
        }
    }

    // ---- statements ----

    fn function(
        &mut self,
        function: &Rc<Function>,
        module: Option<usize>,
        arguments: Vec<Value>,
        named: Vec<(Rc<str>, Value)>,
        from: &Place,
    ) -> Result<Value, Problem> {
        if arguments.len() > function.parameters.len() {
            return Err(from.damaged("a call has more arguments than the function takes"));
        }
        let mut frame = Frame::new(function.place.clone(), module);
        let given = arguments.len();
        let names = function.parameters.iter().map(|(name, _)| name.clone());
        frame.names.extend(names.zip(arguments).chain(named));
        for (name, default) in function.parameters.iter().skip(given) {
            if frame.names.contains_key(name) {
                continue;
            }
            let Some(default) = default else {
                return Err(from.damaged(format!("the argument `{name}` of a call is missing")));
            };
            let value = self.expression(&mut frame, default)?;
            frame.names.insert(name.clone(), value);
        }
        self.descend(from)?;
        let flow = self.block(&mut frame, &function.body)?;
        self.depth -= 1;
        Ok(match flow {
            Flow::Return(value) => value,
            Flow::Next => Value::None,
        })
    }

    fn block(&mut self, frame: &mut Frame, statements: &[Statement]) -> Result<Flow, Problem> {
        for statement in statements {
            frame.line = statement.line;
            if let Flow::Return(value) = self.statement(frame, &statement.kind)? {
                return Ok(Flow::Return(value));
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, frame: &mut Frame, statement: &StatementKind) -> Result<Flow, Problem> {
        match statement {
            StatementKind::Assign(target, value) => {
                let value = self.expression(frame, value)?;
                self.assign(frame, target, value)?;
            }
            StatementKind::Expression(expression) => {
                self.expression(frame, expression)?;
            }
            StatementKind::If(condition, then, otherwise) => {
                let branch = if self.condition(frame, "`if`", condition)? { then } else { otherwise };
                return self.nested_block(frame, branch);
            }
            StatementKind::For(name, count, body) => {
                let count = self.expression(frame, count)?;
                let Value::Int(count) = count else { return Err(self.unresolved(frame, "loop", &count)) };
                for i in 0..count {
                    self.count(1, &frame.place())?;
                    frame.names.insert(name.clone(), Value::Int(i));
                    if let Flow::Return(value) = self.nested_block(frame, body)? {
                        return Ok(Flow::Return(value));
                    }
                }
            }
            StatementKind::While(condition, body) => {
                let line = frame.line;
                while self.condition(frame, "loop", condition)? {
                    self.count(1, &frame.place())?;
                    if let Flow::Return(value) = self.nested_block(frame, body)? {
                        return Ok(Flow::Return(value));
                    }
                    frame.line = line;
                }
            }
            StatementKind::Return(value) => return Ok(Flow::Return(self.expression(frame, value)?)),
            StatementKind::Pass => {}
        }
        Ok(Flow::Next)
    }

    fn nested_block(&mut self, frame: &mut Frame, statements: &[Statement]) -> Result<Flow, Problem> {
        self.descend(&frame.place())?;
        let flow = self.block(frame, statements)?;
        self.depth -= 1;
        Ok(flow)
    }

    fn assign(&mut self, frame: &mut Frame, target: &Target, value: Value) -> Result<(), Problem> {
        match (target, value) {
            (Target::Name(name), value) => {
                frame.names.insert(name.clone(), value);
            }
            (Target::Names(names), Value::List(items)) if names.len() == items.len() => {
                frame.names.extend(names.iter().cloned().zip(items.iter().cloned()));
            }
            (Target::Names(names), value) => {
                let what = format!("{} is taken apart into {} names", value.kind(), names.len());
                return Err(frame.place().unsupported(what, WAY_OUT));
            }
        }
        Ok(())
    }

    fn condition(&mut self, frame: &mut Frame, what: &str, condition: &Expression) -> Result<bool, Problem> {
        match self.expression(frame, condition)? {
            Value::Bool(condition) => Ok(condition),
            other => Err(self.unresolved(frame, what, &other)),
        }
    }

    fn unresolved(&self, frame: &Frame, what: &str, value: &Value) -> Problem {
        let why = match value {
            Value::Size(_) | Value::Unknown => "the batch or something else known at the run only".to_owned(),
            other => other.kind().to_owned(),
        };
        frame.place().unsupported(
            format!("this {what} depends on {why}"),
            "Only branches and loops that constants and the picture's size decide are read: trace the model \
             (torch.jit.trace) in place of scripting it",
        )
    }

    // ---- expressions ----

    fn expression(&mut self, frame: &mut Frame, expression: &Expression) -> Result<Value, Problem> {
        self.count(1, &frame.place())?;
        self.descend(&frame.place())?;
        let value = self.value_of(frame, expression)?;
        self.depth -= 1;
        Ok(value)
    }

    fn value_of(&mut self, frame: &mut Frame, expression: &Expression) -> Result<Value, Problem> {
        match expression {
            Expression::None => Ok(Value::None),
            Expression::Bool(b) => Ok(Value::Bool(*b)),
            Expression::Int(n) => Ok(Value::Int(*n)),
            Expression::Float(x) => Ok(Value::Float(*x)),
            Expression::Text(text) => Ok(Value::Text(text.clone())),
            Expression::Name(name) => {
                Ok(frame.names.get(name).cloned().unwrap_or_else(|| Value::Path(name.clone())))
            }
            Expression::List(items) => {
                let items = self.items(frame, items)?;
                frame.own(&items);
                Ok(Value::List(items))
            }
            Expression::Tuple(items) => self.items(frame, items).map(Value::List),
            Expression::Attribute(of, name) => {
                let of = self.expression(frame, of)?;
                self.attribute(frame, of, name)
            }
            Expression::Index(list, index) => {
                let (list, index) = (self.expression(frame, list)?, self.expression(frame, index)?);
                let item = match (&list, &index) {
                    (Value::List(items), Value::Int(at)) => sizes::item(items, *at),
                    _ => None,
                };
                item.ok_or_else(|| {
                    let what = format!("{} at {} of {} is not read", index.kind(), "an index", list.kind());
                    frame.place().unsupported(what, WAY_OUT)
                })
            }
            Expression::Call(call) => self.call(frame, call),
        }
    }

    fn items(&mut self, frame: &mut Frame, items: &[Expression]) -> Result<Rc<[Value]>, Problem> {
        if items.len() > MAX_LIST {
            return Err(frame.place().too_large("a list has too many elements", MAX_LIST as u64));
        }
        let items: Rc<[Value]> =
            items.iter().map(|i| self.expression(frame, i)).collect::<Result<_, Problem>>()?;
        self.check_nesting(&items, &frame.place())?;
        Ok(items)
    }

    fn attribute(&mut self, frame: &Frame, of: Value, name: &Rc<str>) -> Result<Value, Problem> {
        match of {
            Value::Path(path) if &*path == "CONSTANTS" => self.constant(frame, name),
            Value::Path(path) => Ok(Value::Path(format!("{path}.{name}").into())),
            Value::Module(module) => self.module_attribute(frame, module, name),
            other => {
                let what = format!("the attribute `{name}` of {} is not read", other.kind());
                Err(frame.place().unsupported(what, WAY_OUT))
            }
        }
    }

    /// `c7`: the eighth constant.
    fn constant(&mut self, frame: &Frame, name: &str) -> Result<Value, Problem> {
        let constants = &self.program.constants;
        let items = constants.heap.tuple(&constants.root);
        let item = name.strip_prefix('c').and_then(|n| n.parse().ok()).and_then(|n: usize| items?.get(n));
        match item {
            Some(&Pickle::Node(node)) if matches!(constants.heap.nodes.get(node), Some(Node::Tensor(_))) => {
                let stored = Stored { constant: true, node, transposed: false };
                Ok(self.program.number(stored).unwrap_or(Value::Stored(stored)))
            }
            _ => Err(frame.place().damaged(format!("there is no constant `{name}`"))),
        }
    }

    fn module_attribute(&mut self, frame: &Frame, module: usize, name: &Rc<str>) -> Result<Value, Problem> {
        let attributes = self.program.attributes(module);
        if let Some(value) = attributes.values.get(name) {
            return self.pickled_value(frame, value, name);
        }
        let class = self.program.class(module)?;
        match class.constants.get(name) {
            Some(value) => self.expression(&mut Frame::new(frame.place(), frame.module), value),
            None => {
                let what = format!("the module `{}` has no attribute `{name}`", self.program.name(module));
                Err(frame.place().damaged(what))
            }
        }
    }

    fn pickled_value(&mut self, frame: &Frame, value: &Pickle, name: &str) -> Result<Value, Problem> {
        let heap = &self.program.data.heap;
        Ok(match value {
            Pickle::None => Value::None,
            Pickle::Bool(b) => Value::Bool(*b),
            Pickle::Int(n) => Value::Int(*n),
            Pickle::Float(x) => Value::Float(*x),
            Pickle::Text(text) => Value::Text(text.clone()),
            Pickle::BigInt(_) | Pickle::Plain(_) | Pickle::Global(_) => Value::Unknown,
            &Pickle::Node(node) => match heap.nodes.get(node) {
                Some(Node::Object { .. }) => Value::Module(node),
                Some(Node::Tensor(_)) => Value::Stored(Stored { constant: false, node, transposed: false }),
                Some(Node::List(items) | Node::Tuple(items)) => {
                    let plain = |item: &Pickle| match item {
                        Pickle::Int(n) => Value::Int(*n),
                        Pickle::Float(x) => Value::Float(*x),
                        Pickle::Bool(b) => Value::Bool(*b),
                        Pickle::None => Value::None,
                        Pickle::Text(text) => Value::Text(text.clone()),
                        &Pickle::Node(node) if matches!(heap.nodes.get(node), Some(Node::Tensor(_))) => {
                            Value::Stored(Stored { constant: false, node, transposed: false })
                        }
                        _ => Value::Unknown,
                    };
                    let len = items.len();
                    if len > MAX_LIST {
                        let what = format!("the list `{name}` is too long");
                        return Err(frame.place().too_large(what, MAX_LIST as u64));
                    }
                    let items = items.iter().map(plain).collect();
                    self.count(len, &frame.place())?;
                    Value::List(items)
                }
                _ => Value::Unknown,
            },
        })
    }

    // ---- calls ----

    fn call(&mut self, frame: &mut Frame, call: &Call) -> Result<Value, Problem> {
        if let Expression::Attribute(of, method) = &call.callee {
            let of = self.expression(frame, of)?;
            if let Value::Module(module) = of {
                let mut arguments = vec![of];
                let named = self.arguments(frame, call, &mut arguments)?;
                let function = self.method(module, method)?;
                return self.function(&function, Some(module), arguments, named, &frame.place());
            }
            let callee = self.attribute(frame, of, method)?;
            return self.call_value(frame, callee, call);
        }
        let callee = self.expression(frame, &call.callee)?;
        self.call_value(frame, callee, call)
    }

    fn call_value(&mut self, frame: &mut Frame, callee: Value, call: &Call) -> Result<Value, Problem> {
        let Value::Path(path) = callee else {
            let what = format!("{} is called", callee.kind());
            return Err(frame.place().unsupported(what, WAY_OUT));
        };
        match &*path {
            // The first argument is a type.
            "annotate" | "unchecked_cast" => match &call.arguments[..] {
                [_, value] => return self.expression(frame, value),
                _ => return Err(frame.place().damaged(format!("`{path}` takes a type and a value"))),
            },
            "uninitialized" => return Ok(Value::Unknown),
            _ => {}
        }
        let mut arguments = Vec::new();
        let named = self.arguments(frame, call, &mut arguments)?;
        match (&*path, &mut arguments[..]) {
            ("torch.append", [Value::List(items), item]) => {
                let (items, item) = (std::mem::replace(items, [].into()), item.clone());
                return self.append(frame, items, item);
            }
            ("torch.warn", _) => return Ok(Value::None),
            ("ops.prim.dtype", [tensor @ (Value::Tensor(_) | Value::Stored(_))]) => {
                return Ok(self.aten.element_type(tensor));
            }
            ("torch.is_floating_point", [tensor @ Value::Tensor(_)]) => {
                return Ok(Value::Bool(self.aten.element_type(tensor) == Value::Int(6)));
            }
            ("ops.prim.device", [Value::Tensor(_) | Value::Stored(_)]) => {
                return Ok(Value::Text("cpu".into()));
            }
            ("getattr", [Value::Module(module), Value::Text(name)]) => {
                return self.module_attribute(frame, *module, name);
            }
            ("ops.prim.RaiseException", _) => {
                let what = "the model refuses its input here";
                return Err(frame
                    .place()
                    .unsupported(what, "Give another `{size}`, or check the file in PyTorch"));
            }
            _ => {}
        }
        if let Some(value) = sizes::compute(&path, &arguments).filter(|_| named.is_empty()) {
            if let Value::List(items) = &value {
                self.count(items.len(), &frame.place())?;
            }
            return Ok(value);
        }
        if let Some(operator) = path.strip_prefix("torch.") {
            return self.operator(frame, (operator, None), arguments, named);
        }
        match self.program.function(&path)? {
            Some(function) => match recurrent::find(&self.recurrent, &function) {
                Some(name) => self.operator(frame, (name, Some(STACKED)), arguments, named),
                None => self.function(&function, frame.module, arguments, named, &frame.place()),
            },
            None => Err(frame.place().unsupported(format!("`{path:.80}` is not read"), WAY_OUT)),
        }
    }

    fn arguments(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        arguments: &mut Vec<Value>,
    ) -> Result<Vec<(Rc<str>, Value)>, Problem> {
        for argument in &call.arguments {
            arguments.push(self.expression(frame, argument)?);
        }
        call.named.iter().map(|(name, value)| Ok((name.clone(), self.expression(frame, value)?))).collect()
    }

    fn operator(
        &mut self,
        frame: &Frame,
        (operator, overload): (&str, Option<&str>),
        values: Vec<Value>,
        named: Vec<(Rc<str>, Value)>,
    ) -> Result<Value, Problem> {
        let (path, leaf) = match frame.module {
            Some(module) => (self.program.name(module), !self.program.attributes(module).has_modules),
            None => ("".into(), false),
        };
        let name = match (&*path, leaf) {
            ("", _) => operator.trim_matches('_').to_owned(),
            (path, true) => path.to_owned(),
            (path, false) => format!("{path}.{}", operator.trim_matches('_')),
        };
        let place = frame.place().text();
        let tensors = &*self.program;
        let call = OperatorCall { operator, overload, name, values, named, place, way_out: WAY_OUT, tensors };
        let value = self.aten.call(&call)?;
        if let Value::List(items) = &value {
            self.count(items.len(), &frame.place())?;
        }
        Ok(value)
    }
}
