//! Lists that code adds to, as those that comprehensions make: `l = [item for i in range(n)]` is printed as a loop of `append`.

use std::io::{Read, Seek};
use std::rc::Rc;

use super::{Evaluator, Frame, MAX_LIST, Place, WAY_OUT};
use crate::error::Problem;
use crate::import::aten::Value;

/// How deep lists may lie in lists.
const MAX_NESTED: u32 = 16;

impl<R: Read + Seek> Evaluator<'_, R> {
    /// `items` with `item` behind them, in all names that mean this list. A list has no identity here: it is one that this call has
    /// written down, and that nothing but its names holds.
    pub(super) fn append(
        &mut self,
        frame: &mut Frame,
        items: Rc<[Value]>,
        item: Value,
    ) -> Result<Value, Problem> {
        if items.len() >= MAX_LIST {
            return Err(frame.place().too_large("a list has too many elements", MAX_LIST as u64));
        }
        self.count(items.len() + frame.names.len(), &frame.place())?;
        self.check_nesting(std::slice::from_ref(&item), &frame.place())?;
        let is_it = |value: &Value| matches!(value, Value::List(other) if Rc::ptr_eq(other, &items));
        let names = frame.names.values().filter(|value| is_it(value)).count();
        let known = frame.lists.contains_key(&items.as_ptr());
        // The two others are `items` and the frame's own.
        if !known || Rc::strong_count(&items) != names + 2 {
            let what = "a list is appended to that another function or another list may hold";
            return Err(frame.place().unsupported(what, WAY_OUT));
        }
        let longer: Rc<[Value]> = items.iter().cloned().chain([item]).collect();
        for value in frame.names.values_mut().filter(|value| is_it(value)) {
            *value = Value::List(longer.clone());
        }
        frame.lists.remove(&items.as_ptr());
        frame.own(&longer);
        Ok(Value::List(longer))
    }

    /// Lists in lists are compared and freed by functions that call themselves.
    pub(super) fn check_nesting(&mut self, items: &[Value], place: &Place) -> Result<(), Problem> {
        let mut waiting = vec![(items, 0)];
        while let Some((items, depth)) = waiting.pop() {
            if depth > MAX_NESTED {
                return Err(place.too_large("lists nest too deep", MAX_NESTED.into()));
            }
            if depth > 0 {
                self.count(items.len().max(1), place)?;
            }
            waiting.extend(items.iter().filter_map(|item| match item {
                Value::List(inner) => Some((&**inner, depth + 1)),
                _ => None,
            }));
        }
        Ok(())
    }
}

impl Frame {
    /// Notes a list that this call has written down.
    pub(super) fn own(&mut self, items: &Rc<[Value]>) {
        self.lists.insert(items.as_ptr(), items.clone());
    }
}
