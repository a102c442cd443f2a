//! Sums over the items of a job in a binary tree that depends on their number alone.
//!
//! The node `(level, place)` is the sum of the items from `place << level` on, `1 << level` of them or as many as there are. It is the sum of
//! two nodes of the level below, or one of these as it is where there is no second.

use std::ops::Range;

use crate::{World, WorldError};

/// Pieces that the elements of a sum are cut into, for each process: which of two processes adds two nodes differs from piece to piece, so
/// that all of them add and send about as much.
const PIECES: usize = 4;

/// The items of `count` that the process `rank` of `size` computes: a stretch of them, `count / size` or one more. The item i
/// belongs to the process i size / count, rounded down.
pub fn part(rank: usize, count: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| (rank * count).div_ceil(size.max(1));
    start(rank)..start(rank + 1)
}

/// The process that computes an item.
fn owner(item: usize, count: usize, size: usize) -> usize {
    item * size / count.max(1)
}

/// The number of nodes of a level.
fn width(level: u32, count: usize) -> usize {
    count.div_ceil(1 << level)
}

/// The level of the sum of all.
fn top(count: usize) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// A place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Node {
    level: u32,
    place: usize,
}

impl Node {
    /// The same node a level higher, where it has nobody to be added to.
    fn carried(self, count: usize) -> Node {
        let mut node = self;
        while node.level < top(count)
            && node.place.is_multiple_of(2)
            && node.place + 1 == width(node.level, count)
        {
            node = node.parent();
        }
        node
    }

    fn parent(self) -> Node {
        Node { level: self.level + 1, place: self.place / 2 }
    }

    /// The first and the last item.
    fn ends(self, count: usize) -> (usize, usize) {
        let first = self.place << self.level;
        (first, ((self.place + 1) << self.level).min(count) - 1)
    }
}

/// The sums of the items of one process, as far as the tree allows. There are no more of them than the tree has levels, and one.
#[derive(Clone, Debug)]
pub struct Sums {
    count: usize,
    nodes: Vec<(Node, Vec<f32>)>,
}

impl Sums {
    /// Before the first of `count` items, those of other processes among them.
    pub fn new(count: usize) -> Sums {
        Sums { count, nodes: Vec::new() }
    }

    /// Takes in the values of an item. Items come in order, and all have as many values.
    pub fn push(&mut self, item: usize, values: Vec<f32>) {
        let mut node = Node { level: 0, place: item }.carried(self.count);
        let mut values = values;
        while let Some((before, _)) = self.nodes.last()
            && before.level == node.level
            && before.place + 1 == node.place
            && before.place.is_multiple_of(2)
            && let Some((_, mut sum)) = self.nodes.pop()
        {
            add(&mut sum, &values);
            (values, node) = (sum, node.parent().carried(self.count));
        }
        self.nodes.push((node, values));
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, &x)| *sum += x);
}

/// The sum of the items of all processes, of which each has pushed its [`part`], items of `len` values.
///
/// # Errors
/// As [`World::exchange`].
pub fn reduce(world: &dyn World, sums: Sums, len: usize) -> Result<Vec<f32>, WorldError> {
    let Sums { count, mut nodes } = sums;
    let plan = Plan::new(count, world.size());
    let pieces = plan.pieces(len);
    if world.is_shared() {
        for node in plan.nodes() {
            plan.add_node(world, node, &pieces, &mut nodes)?;
        }
    }
    let mut sum = nodes.pop().map_or_else(|| vec![0.0; len], |(_, sum)| sum);
    plan.share(world, &pieces, &mut sum)?;
    Ok(sum)
}

/// The bytes that a process sends in [`reduce`] for sums of `values` f32 over `count` items, by the number of the process.
pub fn reduce_bytes(values: usize, count: usize, size: usize) -> Vec<u64> {
    let mut sent = vec![0; size];
    if size < 2 || count == 0 {
        return sent;
    }
    let plan = Plan::new(count, size);
    for (piece, range) in plan.pieces(values).into_iter().enumerate() {
        let bytes = (range.len() * size_of::<f32>()) as u64;
        for node in plan.nodes() {
            if let Some([left, right, to]) = plan.addition(node, piece) {
                [left, right].into_iter().filter(|&from| from != to).for_each(|from| sent[from] += bytes);
            }
        }
        sent[plan.holder(plan.root(), piece)] += bytes * (size as u64 - 1);
    }
    sent
}

/// Who adds what.
struct Plan {
    count: usize,
    size: usize,
}

impl Plan {
    fn new(count: usize, size: usize) -> Plan {
        Plan { count, size }
    }

    fn root(&self) -> Node {
        Node { level: top(self.count), place: 0 }
    }

    /// The nodes above the items that belong to several processes, from below.
    fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        let level = |level| (0..width(level, self.count)).map(move |place| Node { level, place });
        (1..=top(self.count)).flat_map(level).filter(|node| {
            let (first, last) = node.ends(self.count);
            owner(first, self.count, self.size) != owner(last, self.count, self.size)
        })
    }

    /// Ranges of the values that are added by different processes.
    fn pieces(&self, values: usize) -> Vec<Range<usize>> {
        let count = PIECES * self.size.next_power_of_two();
        (0..count).map(|piece| part(piece, values, count)).collect()
    }

    /// The process that has a piece of a node once it is computed.
    fn holder(&self, node: Node, piece: usize) -> usize {
        let (first, last) = node.ends(self.count);
        let [first, last] = [first, last].map(|item| owner(item, self.count, self.size));
        if first == last {
            return first;
        }
        let below = |place| Node { level: node.level - 1, place };
        let left = below(2 * node.place);
        if left.place + 1 == width(left.level, self.count) {
            return self.holder(left, piece);
        }
        // The bits of the piece decide, another one at each level.
        let bits = (PIECES * self.size.next_power_of_two()).trailing_zeros();
        let takes_right = piece >> ((top(self.count) - node.level) % bits) & 1 == 1;
        self.holder(if takes_right { below(left.place + 1) } else { left }, piece)
    }

    /// The processes that have a piece of the two nodes that `node` is the sum of, and of that one. `None` where it is no sum.
    fn addition(&self, node: Node, piece: usize) -> Option<[usize; 3]> {
        let child = |place| Node { level: node.level - 1, place };
        let (left, right) = (child(2 * node.place), child(2 * node.place + 1));
        let is_sum = right.place < width(right.level, self.count);
        is_sum.then(|| [left, right, node].map(|node| self.holder(node, piece)))
    }

    /// Computes a node of two that belong to several processes, each piece where it is held.
    fn add_node(
        &self,
        world: &dyn World,
        node: Node,
        pieces: &[Range<usize>],
        nodes: &mut Vec<(Node, Vec<f32>)>,
    ) -> Result<(), WorldError> {
        let mut take = |place: usize| {
            let child = Node { level: node.level - 1, place };
            let found = nodes.iter().position(|(of, _)| *of == child);
            found.map(|found| nodes.remove(found).1)
        };
        let [mut left, right] = [take(2 * node.place), take(2 * node.place + 1)];
        let (mut sends, mut received) = (Vec::new(), Vec::new());
        for (piece, range) in pieces.iter().enumerate().filter(|(_, range)| !range.is_empty()) {
            let Some([of_left, of_right, to]) = self.addition(node, piece) else { continue };
            for (holder, values) in [(of_left, &left), (of_right, &right)] {
                match values {
                    Some(values) if holder == world.rank() && holder != to => {
                        sends.push((to, bytemuck::cast_slice(&values[range.clone()])));
                    }
                    _ if holder != to && to == world.rank() => {
                        received.push((holder, range.clone(), vec![0.0_f32; range.len()]));
                    }
                    _ => {}
                }
            }
        }
        let mut receives: Vec<(usize, &mut [u8])> = (received.iter_mut())
            .map(|(from, _, values)| (*from, bytemuck::cast_slice_mut(&mut values[..])))
            .collect();
        if !sends.is_empty() || !receives.is_empty() {
            world.exchange(&sends, &mut receives)?;
        }
        drop(sends);
        if let (Some(left), Some(right)) = (&mut left, &right) {
            for (piece, range) in pieces.iter().enumerate() {
                let Some([of_left, of_right, to]) = self.addition(node, piece) else { continue };
                let (left, right) = (&mut left[range.clone()], &right[range.clone()]);
                match (to == world.rank(), of_left == to, of_right == to) {
                    (true, true, true) => add(left, right),
                    // What it is added to comes from another process.
                    (true, false, _) => left.copy_from_slice(right),
                    _ => {}
                }
            }
        }
        let mut sum = left.or(right);
        if let Some(sum) = &mut sum {
            received.iter().for_each(|(_, range, values)| add(&mut sum[range.clone()], values));
        }
        nodes.extend(sum.map(|sum| (node.carried(self.count), sum)));
        Ok(())
    }

    /// Gives all processes the pieces of the sum that others hold.
    fn share(&self, world: &dyn World, pieces: &[Range<usize>], sum: &mut [f32]) -> Result<(), WorldError> {
        let (mut held, mut wanted) = (Vec::new(), Vec::new());
        let mut rest = sum;
        for (piece, range) in pieces.iter().enumerate() {
            let (values, after) = rest.split_at_mut(range.len());
            rest = after;
            match self.holder(self.root(), piece) {
                _ if range.is_empty() => {}
                holder if holder == world.rank() => held.push(&*values),
                holder => wanted.push((holder, values)),
            }
        }
        let others = (0..self.size).filter(|&rank| rank != world.rank());
        let sends: Vec<(usize, &[u8])> = others
            .flat_map(|rank| held.iter().map(move |values| (rank, bytemuck::cast_slice(values))))
            .collect();
        let mut receives: Vec<(usize, &mut [u8])> =
            wanted.into_iter().map(|(holder, values)| (holder, bytemuck::cast_slice_mut(values))).collect();
        world.exchange(&sends, &mut receives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alone, Threads};

    /// Numbers whose sum depends on the order in which they are added.
    fn values(item: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((item * 7919 + i * 104_729) % 1000) as f32 * 0.1 - 31.4).collect()
    }

    fn sum(world: &dyn World, count: usize, len: usize) -> Vec<f32> {
        let mut sums = Sums::new(count);
        for item in part(world.rank(), count, world.size()) {
            sums.push(item, values(item, len));
            assert!(sums.nodes.len() <= top(count) as usize + 1);
        }
        reduce(world, sums, len).unwrap()
    }

    /// The definition: neighbors are added, and one that is left over goes up.
    fn defined(count: usize, len: usize) -> Vec<f32> {
        let mut level: Vec<Vec<f32>> = (0..count).map(|item| values(item, len)).collect();
        while level.len() > 1 {
            let pair = |pair: &[Vec<f32>]| match pair {
                [a, b] => a.iter().zip(b).map(|(a, b)| a + b).collect(),
                others => others[0].clone(),
            };
            level = level.chunks(2).map(pair).collect();
        }
        level.remove(0)
    }

    #[test]
    fn any_number_of_processes_gives_the_bits_of_the_tree() {
        // Miri is slow.
        let most = if cfg!(miri) { 6 } else { 64 };
        for count in (1..20).chain([31, 32, 33, 64]).filter(|&count| count <= most) {
            for len in [1, 3, 50, 1000].into_iter().filter(|&len| len < 20 * most) {
                let wanted = defined(count, len);
                assert_eq!(sum(&Alone, count, len), wanted, "{count} {len}");
                for size in 2..if cfg!(miri) { 4 } else { 8 } {
                    let found = Threads::run(size, |world| sum(world, count, len));
                    assert!(found.iter().all(|sum| *sum == wanted), "{count} items on {size}, {len} values");
                }
            }
        }
    }

    #[test]
    fn the_tree_is_not_a_sum_in_order() {
        let in_order = (0..7).fold(vec![0.0; 1000], |mut sum, item| {
            add(&mut sum, &values(item, 1000));
            sum
        });
        assert_ne!(in_order, defined(7, 1000));
    }

    #[test]
    fn each_item_belongs_to_one_process_and_none_has_many_more_than_another() {
        for count in 0..40 {
            for size in 1..10 {
                let parts: Vec<Range<usize>> = (0..size).map(|rank| part(rank, count, size)).collect();
                let all: Vec<usize> = parts.iter().cloned().flatten().collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
                for (rank, part) in parts.iter().enumerate() {
                    assert!(part.len() * size < count + size && part.len() >= count / size);
                    assert!(part.clone().all(|item| owner(item, count, size) == rank));
                }
            }
        }
    }

    #[test]
    fn processes_send_about_the_same_and_no_more_than_twice_the_sum() {
        assert_eq!(reduce_bytes(1000, 4, 1), [0]);
        for size in [2, 4, 8] {
            let sent = reduce_bytes(64_000, size, size);
            let wanted = 2 * 4 * 64_000 * (size as u64 - 1) / size as u64;
            assert_eq!(sent, vec![wanted; size]);
        }
        // Each piece of the sum is sent by those who do not hold it, and then to them.
        let sent = reduce_bytes(64_000, 3, 3);
        assert_eq!(sent.iter().sum::<u64>(), 4 * 64_000 * 4);
    }
}
