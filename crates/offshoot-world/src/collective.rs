//! Exchanges between all processes, made of messages between two.

use crate::{World, WorldError};

/// Bytes of the first message of a gathering: the length, and what fits behind it.
const HEAD: usize = 256;
/// Bytes of the length.
const LENGTH: usize = 8;

impl dyn World + '_ {
    /// The bytes of each process, in the order of their numbers.
    ///
    /// # Errors
    /// As [`World::exchange`].
    pub fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, WorldError> {
        let others: Vec<usize> = (0..self.size()).filter(|&rank| rank != self.rank()).collect();
        let mut head = [0; HEAD];
        head[..LENGTH].copy_from_slice(&(own.len() as u64).to_le_bytes());
        let (first, rest) = own.split_at(own.len().min(HEAD - LENGTH));
        head[LENGTH..LENGTH + first.len()].copy_from_slice(first);
        let mut heads = vec![[0; HEAD]; others.len()];
        self.to_and_from(&others, &head, heads.iter_mut().map(|head| &mut head[..]))?;
        let mut all: Vec<Vec<u8>> = vec![Vec::new(); self.size()];
        for (&rank, head) in others.iter().zip(&heads) {
            let (length, first) = head.split_at(LENGTH);
            let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
            all[rank] = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            let here = all[rank].len().min(first.len());
            all[rank][..here].copy_from_slice(&first[..here]);
        }
        self.rests(&others, rest, &mut all)?;
        all[self.rank()] = own.to_vec();
        Ok(all)
    }

    /// What did not fit into the first messages. Nobody sends an empty one.
    fn rests(&self, others: &[usize], rest: &[u8], all: &mut [Vec<u8>]) -> Result<(), WorldError> {
        let sends: Vec<(usize, &[u8])> =
            others.iter().filter(|_| !rest.is_empty()).map(|&rank| (rank, rest)).collect();
        let long = all.iter_mut().enumerate().filter(|(_, bytes)| bytes.len() > HEAD - LENGTH);
        let mut receives: Vec<(usize, &mut [u8])> =
            long.map(|(rank, bytes)| (rank, &mut bytes[HEAD - LENGTH..])).collect();
        self.exchange(&sends, &mut receives)
    }

    /// Sends the same bytes to all of `others`, and receives from each.
    fn to_and_from<'b>(
        &self,
        others: &[usize],
        own: &[u8],
        into: impl Iterator<Item = &'b mut [u8]>,
    ) -> Result<(), WorldError> {
        let sends: Vec<(usize, &[u8])> = others.iter().map(|&rank| (rank, own)).collect();
        let mut receives: Vec<(usize, &mut [u8])> = others.iter().copied().zip(into).collect();
        self.exchange(&sends, &mut receives)
    }

    /// The bytes of the process 0; what the others give is not looked at.
    ///
    /// # Errors
    /// As [`World::exchange`].
    pub fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>, WorldError> {
        if self.is_first() {
            let length = (own.len() as u64).to_le_bytes();
            let others = 1..self.size();
            let lengths: Vec<(usize, &[u8])> = others.clone().map(|rank| (rank, &length[..])).collect();
            self.exchange(&lengths, &mut [])?;
            let contents: Vec<(usize, &[u8])> = others.map(|rank| (rank, &own[..])).collect();
            self.exchange(&contents, &mut [])?;
            return Ok(own);
        }
        let mut length = [0; LENGTH];
        self.exchange(&[], &mut [(0, &mut length)])?;
        let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX)];
        self.exchange(&[], &mut [(0, &mut bytes)])?;
        Ok(bytes)
    }

    /// Whether any process says so.
    ///
    /// # Errors
    /// As [`World::exchange`].
    pub fn any(&self, own: bool) -> Result<bool, WorldError> {
        Ok(self.all_gather(&[u8::from(own)])?.iter().any(|bytes| bytes == &[1]))
    }

    /// Checks that all processes give the same value of each fact, in words.
    ///
    /// # Errors
    /// The first fact that differs from that of the process 0, with both values and whose they are. All processes give the same error.
    pub fn agree(&self, facts: &[(&str, String)]) -> Result<(), WorldError> {
        if !self.is_shared() {
            return Ok(());
        }
        let own = facts.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("\0");
        let all = self.all_gather(own.as_bytes())?;
        let values: Vec<Vec<String>> = all
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).split('\0').map(str::to_owned).collect())
            .collect();
        for (place, (fact, _)) in facts.iter().enumerate() {
            let first = values[0].get(place);
            let other = values.iter().position(|values| values.get(place) != first);
            if let Some(rank) = other {
                let shown = |value: Option<&String>| value.cloned().unwrap_or_default();
                let (a, b) = differing(&shown(first), &shown(values[rank].get(place)));
                return Err(WorldError::Differs(format!(
                    "{} and {} have different {fact}: {a} and {b}; start all processes with the same program, settings and files",
                    self.name(0),
                    self.name(rank),
                )));
            }
        }
        Ok(())
    }
}

/// The first lines in which two texts differ.
fn differing(a: &str, b: &str) -> (String, String) {
    let (mut one, mut other) = (a.lines(), b.lines());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return (a.to_owned(), b.to_owned()),
            (a, b) if a == b => {}
            (a, b) => {
                let shown = |line: Option<&str>| line.map_or("nothing".into(), |line| format!("`{line}`"));
                return (shown(a), shown(b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alone, Threads};

    #[test]
    fn all_get_what_each_has_of_any_length() {
        for size in 1..5 {
            Threads::run(size, |world| {
                for scale in [0, 1, 7, 100, 1000, if cfg!(miri) { 0 } else { 1 << 20 }] {
                    let of = |rank: usize| vec![rank as u8 + 1; rank * scale];
                    let all = world.all_gather(&of(world.rank())).unwrap();
                    assert_eq!(all, (0..size).map(of).collect::<Vec<_>>());
                    let sent = if world.is_first() { vec![7; scale] } else { vec![9; 3] };
                    assert_eq!(world.broadcast(sent).unwrap(), vec![7; scale]);
                }
                assert!(!world.any(false).unwrap());
                assert!(world.any(world.rank() + 1 == size).unwrap());
            });
        }
    }

    #[test]
    fn what_differs_is_named_with_whose_it_is() {
        let same = |world: &dyn World, of_last: &str| {
            let value = if world.rank() == 2 { of_last } else { "a = 1\nb = 2\nc = 3" };
            world.agree(&[("programs", "x".into()), ("recipes", value.into())])
        };
        Threads::run(3, |world| {
            same(world, "a = 1\nb = 2\nc = 3").unwrap();
            let error = same(world, "a = 1\nb = 5\nc = 3").unwrap_err().to_string();
            assert!(
                error.contains("rank 0 (host thread) and rank 2 (host thread) have different recipes: `b = 2` and `b = 5`"),
                "{error}"
            );
            assert!(same(world, "a = 1").unwrap_err().to_string().contains("`b = 2` and nothing"));
        });
        (&Alone as &dyn World).agree(&[("a", "b".into())]).unwrap();
    }
}
