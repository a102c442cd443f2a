//! What a process has computed for some pictures, as a message.

use crate::{World, WorldError};

/// Rows of numbers, each of a picture, and what else there is to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The pictures, a row each.
    pub indices: Vec<u64>,
    /// The shape of a row.
    pub shape: Vec<usize>,
    /// The rows, one after the other.
    pub values: Vec<f32>,
    /// Pictures that cannot be used, with the reason.
    pub unusable: Vec<(usize, String)>,
    /// Why the process does not go on, if it does not: a text without a meaning here.
    pub ended: Option<String>,
}

impl Rows {
    /// The rows of all processes, in the order of their numbers.
    ///
    /// # Errors
    /// As [`World::exchange`].
    pub fn gathered(self, world: &dyn World) -> Result<Vec<Rows>, WorldError> {
        if !world.is_shared() {
            return Ok(vec![self]);
        }
        let all = world.all_gather(&self.to_bytes())?;
        Ok(all.iter().map(|bytes| Rows::of_bytes(bytes)).collect())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 8 * self.indices.len() + 4 * self.values.len());
        let mut number = |n: u64| bytes.extend(n.to_le_bytes());
        number(self.indices.len() as u64);
        self.indices.iter().for_each(|&index| number(index));
        number(self.shape.len() as u64);
        self.shape.iter().for_each(|&n| number(n as u64));
        number(self.unusable.len() as u64);
        self.unusable.iter().for_each(|(place, reason)| {
            number(*place as u64);
            number(reason.len() as u64);
        });
        number(self.ended.as_ref().map_or(0, |text| text.len() as u64 + 1));
        self.unusable.iter().for_each(|(_, reason)| bytes.extend(reason.as_bytes()));
        self.ended.iter().for_each(|text| bytes.extend(text.as_bytes()));
        bytes.extend(bytemuck::cast_slice::<f32, u8>(&self.values));
        bytes
    }

    /// What a message holds; what it lacks is left out.
    fn of_bytes(bytes: &[u8]) -> Rows {
        let mut bytes = bytes;
        let indices = numbers(&mut bytes, 1);
        let shape = numbers(&mut bytes, 1).into_iter().map(|n| n as usize).collect();
        let unusable = numbers(&mut bytes, 2);
        let ended = number(&mut bytes);
        let unusable = unusable.chunks_exact(2).map(|pair| (pair[0] as usize, text(&mut bytes, pair[1])));
        let unusable = unusable.collect();
        let ended = ended.checked_sub(1).map(|length| text(&mut bytes, length));
        let values = bytes.as_chunks().0.iter().map(|&x| f32::from_ne_bytes(x)).collect();
        Rows { indices, shape, values, unusable, ended }
    }
}

fn number(bytes: &mut &[u8]) -> u64 {
    let Some((number, rest)) = bytes.split_first_chunk() else { return 0 };
    *bytes = rest;
    u64::from_le_bytes(*number)
}

/// A count, and so many times `each` numbers.
fn numbers(bytes: &mut &[u8], each: u64) -> Vec<u64> {
    let count = number(bytes).saturating_mul(each).min(bytes.len() as u64 / 8);
    (0..count).map(|_| number(bytes)).collect()
}

fn text(bytes: &mut &[u8], length: u64) -> String {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;

    fn rows() -> Rows {
        Rows {
            indices: vec![3, u64::MAX],
            shape: vec![2, 1],
            values: vec![0.5, -0.0, f32::NAN, 1e-42],
            unusable: vec![(7, "it is \"broken\"".into()), (9, String::new())],
            ended: Some(String::new()),
        }
    }

    #[test]
    fn rows_are_the_same_behind_a_message() {
        for rows in [rows(), Rows::default(), Rows { ended: None, ..rows() }] {
            let back = Rows::of_bytes(&rows.to_bytes());
            // A NaN is none of another.
            assert_eq!(format!("{back:?}"), format!("{rows:?}"));
        }
        let whole = rows().to_bytes();
        (0..whole.len()).for_each(|len| drop(Rows::of_bytes(&whole[..len])));
        let all = Threads::run(3, |world| {
            let own = Rows { indices: vec![world.rank() as u64], ..Rows::default() };
            own.gathered(world).unwrap()
        });
        assert!(all.iter().all(|rows| rows.iter().map(|r| r.indices[0]).eq([0, 1, 2])));
    }
}
