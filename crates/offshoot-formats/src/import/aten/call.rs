//! A call of an operator, and its arguments by the names that PyTorch's signature has for them.

use std::rc::Rc;

use offshoot_graph::{Dim, Shape, Tensor};

use super::signature::Signature;
use super::value::{Stored, Value};
use crate::error::Problem;
use crate::import::Site;
use crate::metadata::MAX_SIDE;

/// The tensors of a file.
pub(crate) trait Tensors {
    /// The shape of a tensor, not transposed.
    fn shape(&self, stored: Stored) -> Result<Vec<usize>, Problem>;
    /// The name of a tensor: of a weight its state-dict key.
    fn key(&self, stored: Stored) -> String;
    /// The elements of a constant, or of another tensor of integers, where they are few.
    fn small(&self, stored: Stored) -> Option<&Tensor>;
}

/// A call of an operator.
pub(crate) struct Call<'a> {
    /// Its name without the namespace; with a `_` behind it where it works in place.
    pub(crate) operator: &'a str,
    /// The overload, where the file names it.
    pub(crate) overload: Option<&'a str>,
    /// The name of the node that it becomes.
    pub(crate) name: String,
    pub(crate) values: Vec<Value>,
    pub(crate) named: Vec<(Rc<str>, Value)>,
    /// Where it is in the file.
    pub(crate) place: String,
    pub(crate) way_out: &'static str,
    pub(crate) tensors: &'a dyn Tensors,
}

impl Site for Call<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> String {
        format!("{}: `torch.{:.60}`", self.place, self.operator)
    }

    fn way_out(&self) -> &str {
        self.way_out
    }
}

impl Call<'_> {
    /// Argument `index`, or the one called `name`.
    pub(super) fn at(&self, index: usize, name: &str) -> Option<&Value> {
        let named = || self.named.iter().find(|(n, _)| &**n == name).map(|(_, value)| value);
        self.values.get(index).or_else(named).filter(|v| **v != Value::None)
    }

    /// The number that argument `index`, or the one called `name`, is.
    pub(super) fn number_at(&self, index: usize, name: &str, default: f64) -> Result<f64, Problem> {
        match self.at(index, name) {
            None => Ok(default),
            Some(value) => value.number().ok_or_else(|| self.refused(&format!("{name} is {}", value.kind()))),
        }
    }

    /// The shape of a tensor of the file as it is read.
    pub(super) fn shape_of(&self, stored: Stored) -> Result<Vec<usize>, Problem> {
        let mut shape = self.tensors.shape(stored)?;
        if stored.transposed {
            shape.reverse();
        }
        Ok(shape)
    }

    pub(super) fn in_training_mode(&self) -> Problem {
        Problem::unsupported(
            self.place(),
            "the model was saved in training mode",
            "Call `model.eval()` before torch.jit.trace, torch.jit.script or torch.export, and save it again",
        )
    }
}

/// A call under the signature of its operator.
pub(super) struct Bound<'c> {
    pub(super) call: &'c Call<'c>,
    pub(super) signature: &'c Signature,
    pub(super) in_place: bool,
}

impl Site for Bound<'_> {
    fn name(&self) -> &str {
        &self.call.name
    }

    fn place(&self) -> String {
        self.call.place()
    }

    fn way_out(&self) -> &str {
        self.call.way_out
    }
}

impl Bound<'_> {
    /// The argument called `name`: its place, and what is given or its default. `None` where that is None.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        let index = self.signature.arguments.iter().position(|argument| argument.name == name)?;
        // What works in place calls it `self`, whatever its name is otherwise.
        let changed = || if self.in_place && index == 0 { self.call.at(0, "self") } else { None };
        self.call.at(index, name).or_else(changed).or(self.signature.arguments[index].default.as_ref())
    }

    /// The argument that is changed in place, or shares its memory with the result.
    pub(super) fn first(&self) -> Option<&Value> {
        self.get(self.signature.arguments.first()?.name)
    }

    /// A file that names the overload means the signature as it was when the file was written.
    pub(super) fn check_names(&self) -> Result<(), Problem> {
        let known = |name: &str| {
            let changed = self.in_place && name == "self";
            changed || self.signature.arguments.iter().any(|argument| argument.name == name)
        };
        match self.call.named.iter().find(|(name, _)| self.call.overload.is_some() && !known(name)) {
            Some((name, _)) => Err(self.refused(&format!("its argument `{name:.40}` is not known"))),
            None => Ok(()),
        }
    }

    /// The place of the argument called `name`, for messages.
    pub(super) fn label(&self, name: &str) -> String {
        match self.signature.arguments.iter().position(|argument| argument.name == name) {
            Some(index) if matches!(name, "self" | "input" | "other" | "mat2") => format!("argument {index}"),
            _ => name.to_owned(),
        }
    }

    /// The argument called `name`, which must be given.
    pub(super) fn required(&self, name: &str) -> Result<&Value, Problem> {
        self.get(name).ok_or_else(|| self.damage(&format!("its {} is missing", self.label(name))))
    }

    fn known<T>(&self, name: &str, of: impl Fn(&Value) -> Option<T>) -> Result<T, Problem> {
        let value = self.required(name)?;
        of(value).ok_or_else(|| self.refused(&format!("{name} is {}", value.kind())))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        self.known(name, |value| value.number().map(|n| n != 0.0))
    }

    pub(super) fn number(&self, name: &str) -> Result<f64, Problem> {
        self.known(name, Value::number)
    }

    pub(super) fn int(&self, name: &str) -> Result<i64, Problem> {
        self.known(name, Value::int)
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.get(name) {
            Some(Value::List(items)) => Some(items),
            Some(one) => Some(std::slice::from_ref(one)),
            None => None,
        }
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        let Some(items) = self.list(name) else { return Ok(None) };
        let ints = items.iter().map(Value::int).collect::<Option<Vec<_>>>();
        ints.map(Some).ok_or_else(|| self.refused(&format!("{name} is not known before the run")))
    }

    /// Height and width, from `least` up; one number stands for both. `None` where nothing or an empty list is given.
    pub(super) fn pair(&self, name: &str, least: usize) -> Result<Option<[usize; 2]>, Problem> {
        let Some(values) = self.ints(name)? else { return Ok(None) };
        let fits = |&v: &i64| usize::try_from(v).ok().filter(|v| (least..=MAX_SIDE).contains(v));
        let sizes: Option<Vec<usize>> = values.iter().map(fits).collect();
        match sizes.as_deref() {
            Some([]) => Ok(None),
            Some(&[both]) => Ok(Some([both, both])),
            Some(&[height, width]) => Ok(Some([height, width])),
            _ => {
                let what = format!("{name} is {values:?}, not two numbers from {least} to {MAX_SIDE}");
                Err(self.refused(&what))
            }
        }
    }

    /// An argument of `rank` axes' places, each once; `None` where it is not given or empty.
    pub(super) fn axes(&self, name: &str, rank: usize) -> Result<Option<Vec<usize>>, Problem> {
        match self.ints(name)?.filter(|axes| !axes.is_empty()) {
            Some(axes) => self.axes_of(&axes, rank).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn axis(&self, name: &str, rank: usize) -> Result<usize, Problem> {
        self.axis_of(self.int(name)?, rank)
    }

    /// The element type that a call asks for must be one of floats: all is computed in f32.
    pub(super) fn check_floats(&self, name: &str) -> Result<(), Problem> {
        match self.get(name) {
            None | Some(Value::Int(5..=7 | 15)) => Ok(()),
            Some(Value::Int(_)) => Err(self.refused("only types of floats are read")),
            Some(other) => Err(self.refused(&format!("{name} is {}", other.kind()))),
        }
    }
}

/// The sizes of a shape as a list of the program.
pub(super) fn sizes(shape: &Shape) -> Value {
    Value::List(shape.0.iter().map(Value::of_dim).collect())
}

/// The number of places of an axis that must be known.
pub(super) fn known_size(site: &dyn Site, dim: &Dim) -> Result<usize, Problem> {
    dim.fixed().ok_or_else(|| site.refused("the axis has no known size"))
}
