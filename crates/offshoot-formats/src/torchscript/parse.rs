//! The syntax of the Python that TorchScript is printed in, as a tree. Types are passed over: the values have them.

use std::collections::HashMap;
use std::rc::Rc;

use super::lex::{Token, tokens};
use super::place::Place;
use crate::error::Problem;

/// How many steps (`.name`, a call, an index) may follow one another in an expression.
const MAX_CHAIN: usize = 32;
/// The most items of a list or arguments of a call.
const MAX_ITEMS: usize = 1 << 12;

const WAY_OUT: &str = "Give a file that torch.jit.save wrote for a classifier of pictures";

/// One file of code.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) classes: HashMap<Rc<str>, Rc<Class>>,
    pub(super) functions: HashMap<Rc<str>, Rc<Function>>,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    pub(super) methods: HashMap<Rc<str>, Rc<Function>>,
    /// Attributes with a value in the code.
    pub(super) constants: HashMap<Rc<str>, Expression>,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) place: Place,
    /// Names, and what stands for those that are not given.
    pub(super) parameters: Vec<(Rc<str>, Option<Expression>)>,
    pub(super) body: Vec<Statement>,
}

/// Equal to another where it does the same, on whatever line.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: u32,
    pub(super) kind: StatementKind,
}

impl PartialEq for Statement {
    fn eq(&self, other: &Statement) -> bool {
        self.kind == other.kind
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum StatementKind {
    Assign(Target, Expression),
    Expression(Expression),
    If(Expression, Vec<Statement>, Vec<Statement>),
    /// `for name in range(count)`
    For(Rc<str>, Expression, Vec<Statement>),
    While(Expression, Vec<Statement>),
    Return(Expression),
    Pass,
}

#[derive(Debug, PartialEq)]
pub(super) enum Target {
    Name(Rc<str>),
    /// `a, b, = pair`
    Names(Vec<Rc<str>>),
}

#[derive(Debug, PartialEq)]
pub(super) enum Expression {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Name(Rc<str>),
    Attribute(Box<Expression>, Rc<str>),
    Index(Box<Expression>, Box<Expression>),
    Call(Box<Call>),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) callee: Expression,
    pub(super) arguments: Vec<Expression>,
    pub(super) named: Vec<(Rc<str>, Expression)>,
}

/// The classes and functions of the file of code `text`.
pub(super) fn parse(text: &str, file: &Rc<str>) -> Result<Module, Problem> {
    let tokens = tokens(text, file)?;
    let mut parser = Parser { tokens: &tokens, at: 0, file };
    let mut module = Module::default();
    while parser.peek().is_some() {
        let line = parser.line();
        match parser.name("a class or a function")?.as_ref() {
            "class" => {
                let (name, class) = parser.class()?;
                module.classes.insert(name, Rc::new(class));
            }
            "def" => {
                let (name, function) = parser.function(line)?;
                module.functions.insert(name, Rc::new(function));
            }
            "import" => parser.skip_line(),
            other => return Err(parser.damaged(format!("`{other:.40}` is neither a class nor a function"))),
        }
    }
    Ok(module)
}

struct Parser<'a> {
    tokens: &'a [(Token, u32)],
    at: usize,
    file: &'a Rc<str>,
}

impl Parser<'_> {
    // ---- tokens ----

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn line(&self) -> u32 {
        let last = || self.tokens.last().map_or(1, |&(_, line)| line);
        self.tokens.get(self.at).map_or_else(last, |&(_, line)| line)
    }

    fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line() }
    }

    fn damaged(&self, what: impl Into<String>) -> Problem {
        self.place().damaged(what)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    fn is(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(name)) if &**name == word)
    }

    /// Takes the token if it is `mark`.
    fn skip(&mut self, mark: char) -> bool {
        let found = self.is(mark);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), Problem> {
        self.expect_token(&Token::Mark(mark), &format!("`{mark}`"))
    }

    fn expect_token(&mut self, token: &Token, what: &str) -> Result<(), Problem> {
        if self.peek() == Some(token) {
            self.at += 1;
            return Ok(());
        }
        Err(self.damaged(format!("{what} is missing")))
    }

    fn end_of_line(&mut self) -> Result<(), Problem> {
        self.expect_token(&Token::Newline, "the end of the line")
    }

    fn skip_line(&mut self) {
        while let Some(token) = self.next() {
            if token == Token::Newline {
                break;
            }
        }
    }

    fn name(&mut self, what: &str) -> Result<Rc<str>, Problem> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.damaged(format!("{what} is missing"))),
        }
    }

    // ---- definitions ----

    /// After `class`: `Name(Module):` and its block.
    fn class(&mut self) -> Result<(Rc<str>, Class), Problem> {
        let name = self.name("the name of the class")?;
        self.expect('(')?;
        self.expression()?;
        self.expect(')')?;
        self.open_block()?;
        let mut class = Class::default();
        while !self.close_block()? {
            self.member(&mut class)?;
        }
        Ok((name, class))
    }

    fn member(&mut self, class: &mut Class) -> Result<(), Problem> {
        let line = self.line();
        let name = self.name("a member of the class")?;
        match name.as_ref() {
            "def" => {
                let (name, function) = self.function(line)?;
                class.methods.insert(name, Rc::new(function));
                return Ok(());
            }
            "pass" => {}
            // `__annotations__["0"] = ...` and the lists of parameters and buffers.
            _ if self.is('[') || self.is('=') => {
                self.skip_line();
                return Ok(());
            }
            _ => {
                self.expect(':')?;
                self.expression()?;
                if self.skip('=') {
                    let value = self.expression()?;
                    class.constants.insert(name, value);
                }
            }
        }
        self.end_of_line()
    }

    /// After `def`: `name(parameters) -> type:` and its block.
    fn function(&mut self, line: u32) -> Result<(Rc<str>, Function), Problem> {
        let name = self.name("the name of the function")?;
        self.expect('(')?;
        let mut parameters = Vec::new();
        while !self.skip(')') {
            let name = self.name("a parameter")?;
            if self.skip(':') {
                self.expression()?;
            }
            let default = if self.skip('=') { Some(self.expression()?) } else { None };
            self.check_items(parameters.len())?;
            parameters.push((name, default));
            if !self.is(')') {
                self.expect(',')?;
            }
        }
        if self.peek() == Some(&Token::Arrow) {
            self.at += 1;
            self.expression()?;
        }
        let body = self.block()?;
        Ok((name, Function { place: Place { file: self.file.clone(), line }, parameters, body }))
    }

    // ---- statements ----

    fn open_block(&mut self) -> Result<(), Problem> {
        self.expect(':')?;
        self.end_of_line()?;
        self.expect_token(&Token::Indent, "an indented block")
    }

    fn close_block(&mut self) -> Result<bool, Problem> {
        match self.peek() {
            Some(Token::Dedent) => {
                self.at += 1;
                Ok(true)
            }
            Some(_) => Ok(false),
            None => Err(self.damaged("a block is not closed")),
        }
    }

    fn block(&mut self) -> Result<Vec<Statement>, Problem> {
        self.open_block()?;
        let mut statements = Vec::new();
        while !self.close_block()? {
            statements.push(self.statement()?);
        }
        Ok(statements)
    }

    fn statement(&mut self) -> Result<Statement, Problem> {
        let line = self.line();
        let word = match self.peek() {
            Some(Token::Name(name)) => name.clone(),
            _ => "".into(),
        };
        let compound = matches!(&*word, "if" | "for" | "while");
        let simple = matches!(&*word, "return" | "pass");
        self.at += usize::from(compound || simple);
        let kind = match &*word {
            "if" => self.branches()?,
            "for" => self.for_loop()?,
            "while" => {
                let condition = self.expression()?;
                StatementKind::While(condition, self.block()?)
            }
            "return" => StatementKind::Return(self.expression()?),
            "pass" => StatementKind::Pass,
            _ => self.assignment()?,
        };
        if !compound {
            self.end_of_line()?;
        }
        Ok(Statement { line, kind })
    }

    fn branches(&mut self) -> Result<StatementKind, Problem> {
        let condition = self.expression()?;
        let then = self.block()?;
        let otherwise = if self.is_word("else") {
            self.at += 1;
            self.block()?
        } else {
            Vec::new()
        };
        Ok(StatementKind::If(condition, then, otherwise))
    }

    fn for_loop(&mut self) -> Result<StatementKind, Problem> {
        let name = self.name("the variable of the loop")?;
        if !self.is_word("in") {
            return Err(self.damaged("`in` is missing"));
        }
        self.at += 1;
        if !self.is_word("range") {
            return Err(self.place().unsupported("only loops over `range` are read", WAY_OUT));
        }
        self.at += 1;
        self.expect('(')?;
        let count = self.expression()?;
        self.expect(')')?;
        Ok(StatementKind::For(name, count, self.block()?))
    }

    /// `expression`, `name = expression`, `name : type = expression`, `name, name, = expression` or
    /// `name, name = expression, expression`.
    fn assignment(&mut self) -> Result<StatementKind, Problem> {
        let first = self.expression()?;
        let target = match (first, self.peek()) {
            (Expression::Name(name), Some(Token::Mark(':'))) => {
                self.at += 1;
                self.expression()?;
                Target::Name(name)
            }
            (Expression::Name(name), Some(Token::Mark('='))) => Target::Name(name),
            (Expression::Name(name), Some(Token::Mark(','))) => {
                let mut names = vec![name];
                while self.skip(',') && !self.is('=') {
                    self.check_items(names.len())?;
                    names.push(self.name("a name to assign to")?);
                }
                Target::Names(names)
            }
            (first, _) => {
                if self.is('=') {
                    return Err(self.place().unsupported("only names are assigned to", WAY_OUT));
                }
                return Ok(StatementKind::Expression(first));
            }
        };
        self.expect('=')?;
        let first = self.expression()?;
        if !self.is(',') {
            return Ok(StatementKind::Assign(target, first));
        }
        let mut values = vec![first];
        while self.skip(',') {
            self.check_items(values.len())?;
            values.push(self.expression()?);
        }
        Ok(StatementKind::Assign(target, Expression::Tuple(values)))
    }

    // ---- expressions ----

    fn check_items(&self, items: usize) -> Result<(), Problem> {
        match items < MAX_ITEMS {
            true => Ok(()),
            false => Err(self.place().too_large("a list has too many elements", MAX_ITEMS as u64)),
        }
    }

    fn expression(&mut self) -> Result<Expression, Problem> {
        let mut expression = self.atom()?;
        let mut steps = 0;
        loop {
            expression = match self.peek() {
                Some(Token::Mark('.')) => {
                    self.at += 1;
                    Expression::Attribute(Box::new(expression), self.name("an attribute")?)
                }
                Some(Token::Mark('(')) => self.call(expression)?,
                Some(Token::Mark('[')) => self.index(expression)?,
                _ => return Ok(expression),
            };
            steps += 1;
            if steps > MAX_CHAIN {
                return Err(self.place().too_large("an expression has too many parts", MAX_CHAIN as u64));
            }
        }
    }

    fn atom(&mut self) -> Result<Expression, Problem> {
        let missing = "an expression is missing";
        Ok(match self.next() {
            Some(Token::Int(value)) => Expression::Int(value),
            Some(Token::Float(value)) => Expression::Float(value),
            Some(Token::Text(text)) => Expression::Text(text),
            Some(Token::Mark('-')) => match self.next() {
                Some(Token::Int(value)) => Expression::Int(-value),
                Some(Token::Float(value)) => Expression::Float(-value),
                _ => return Err(self.damaged("a number is missing")),
            },
            Some(Token::Mark('[')) => Expression::List(self.items(']')?.0),
            Some(Token::Mark('(')) => match self.items(')')? {
                (items, comma) if items.len() == 1 && !comma => {
                    items.into_iter().next().unwrap_or(Expression::None)
                }
                (items, _) => Expression::Tuple(items),
            },
            Some(Token::Mark('{')) => {
                return Err(self.place().unsupported("dictionaries are not read", WAY_OUT));
            }
            Some(Token::Name(name)) => match &*name {
                "None" => Expression::None,
                "True" => Expression::Bool(true),
                "False" => Expression::Bool(false),
                "inf" => Expression::Float(f64::INFINITY),
                _ => Expression::Name(name),
            },
            Some(_) => {
                self.at -= 1;
                return Err(self.damaged(missing));
            }
            None => return Err(self.damaged(missing)),
        })
    }

    /// Expressions up to `close`, and whether a comma stands before it.
    fn items(&mut self, close: char) -> Result<(Vec<Expression>, bool), Problem> {
        let (mut items, mut comma) = (Vec::new(), false);
        while !self.skip(close) {
            if !items.is_empty() && !comma {
                return Err(self.damaged("`,` is missing"));
            }
            self.check_items(items.len())?;
            items.push(self.expression()?);
            comma = self.skip(',');
        }
        Ok((items, comma))
    }

    fn call(&mut self, callee: Expression) -> Result<Expression, Problem> {
        self.expect('(')?;
        let (mut arguments, mut named) = (Vec::new(), Vec::new());
        while !self.skip(')') {
            self.check_items(arguments.len() + named.len())?;
            match (self.expression()?, self.skip('=')) {
                (Expression::Name(name), true) => named.push((name, self.expression()?)),
                (_, true) => return Err(self.damaged("the name of an argument is missing")),
                (argument, false) => arguments.push(argument),
            }
            if !self.is(')') {
                self.expect(',')?;
            }
        }
        Ok(Expression::Call(Box::new(Call { callee, arguments, named })))
    }

    /// `x[i]`, or in a type `Tuple[int, int]`.
    fn index(&mut self, list: Expression) -> Result<Expression, Problem> {
        self.expect('[')?;
        let (mut items, _) = self.items(']')?;
        let index = match items.len() {
            1 => items.remove(0),
            _ => Expression::Tuple(items),
        };
        Ok(Expression::Index(Box::new(list), Box::new(index)))
    }
}

#[cfg(test)]
mod tests;
