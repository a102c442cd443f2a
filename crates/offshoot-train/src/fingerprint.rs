//! Hashes of all that decides about numbers, for the cache and for checkpoints. BLAKE3 everywhere.

use std::io;
use std::path::Path;
use std::sync::LazyLock;

use blake3::{Hash, Hasher};
use offshoot_data::{Sample, open_picture};
use offshoot_graph::{Data, Graph, Source, Tensor, Weights};
use offshoot_infer::Inference;
use rayon::prelude::*;

/// Adds `bytes` and their number, so that no two sequences of fields give the same hash.
pub(crate) fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Adds a tensor: type, shape, elements.
pub(crate) fn tensor(hasher: &mut Hasher, tensor: &Tensor) {
    field(hasher, format!("{} {:?}", tensor.dtype(), tensor.shape()).as_bytes());
    match tensor.data() {
        Data::F32(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::F64(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::F16(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::BF16(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::I64(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::I32(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::I8(v) => field(hasher, bytemuck::cast_slice(v)),
        Data::U8(v) => field(hasher, v),
        Data::Bool(v) => field(hasher, &v.iter().map(|&b| u8::from(b)).collect::<Vec<u8>>()),
    }
}

/// Adds those of `weights` that `keep` holds for, by name.
pub(crate) fn weights(hasher: &mut Hasher, weights: &Weights, keep: impl Fn(&str) -> bool) {
    for (name, value) in weights.iter().filter(|(name, _)| keep(name)) {
        field(hasher, name.as_bytes());
        tensor(hasher, value);
    }
}

/// Adds a graph: its text, and the constants in it.
pub(crate) fn graph(hasher: &mut Hasher, graph: &Graph) {
    field(hasher, graph.to_string().as_bytes());
    for (_, value) in graph.values() {
        if let Source::Constant(constant) = &value.source {
            tensor(hasher, constant);
        }
    }
}

/// Adds everything that the outputs of a network depend on, except for the executor.
pub(crate) fn inference(hasher: &mut Hasher, network: &Inference) {
    graph(hasher, network.graph());
    weights(hasher, &network.weights(), |_| true);
}

/// The running program: another build may round in another way. Where it cannot be read, its version has to do.
pub(crate) fn program() -> Hash {
    static PROGRAM: LazyLock<Hash> = LazyLock::new(|| {
        let content = std::env::current_exe().and_then(|path| content(&path));
        content.unwrap_or_else(|_| blake3::hash(env!("CARGO_PKG_VERSION").as_bytes()))
    });
    *PROGRAM
}

/// The bytes of each picture. A file that cannot be read counts as its name.
pub(crate) fn pictures(samples: &[Sample]) -> Vec<Hash> {
    let hash = |sample: &Sample| {
        content(&sample.path)
            .unwrap_or_else(|_| blake3::keyed_hash(&[0; 32], sample.path.as_os_str().as_encoded_bytes()))
    };
    samples.par_iter().map(hash).collect()
}

/// The bytes of a file, or of a picture in an archive.
pub(crate) fn content(path: &Path) -> io::Result<Hash> {
    Ok(Hasher::new().update_reader(open_picture(path)?)?.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fill: impl FnOnce(&mut Hasher)) -> Hash {
        let mut hasher = Hasher::new();
        fill(&mut hasher);
        hasher.finalize()
    }

    #[test]
    fn every_part_of_the_weights_counts() {
        let one = |name: &str, t: Tensor| Weights::from([(name.to_string(), t)]);
        let of = |w: &Weights| hash(|h| weights(h, w, |_| true));
        let all = [
            one("a", Tensor::full([2, 3], 1.0)),
            one("b", Tensor::full([2, 3], 1.0)),
            one("a", Tensor::full([3, 2], 1.0)),
            one("a", Tensor::full([2, 3], f32::from_bits(1.0f32.to_bits() + 1))),
            one("a", Tensor::i64([6], vec![1; 6])),
            Weights::new(),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| of(b) != of(a)), "{i}");
            assert_eq!(of(a), of(&a.clone()));
        }
        assert_eq!(hash(|h| weights(h, &all[0], |name| name != "a")), of(&Weights::new()));
    }

    #[test]
    fn a_constant_counts_and_a_picture_is_its_bytes() {
        let with = |x: f32| {
            let mut g = Graph::new("g");
            g.add_constant("c", Tensor::full([1], x));
            hash(|h| graph(h, &g))
        };
        assert!(with(1.0) == with(1.0) && with(1.0) != with(2.0));
        let folder = tempfile::tempdir().unwrap();
        let sample = |name: &str, bytes: Option<&[u8]>| {
            let path = folder.path().join(name);
            bytes.iter().for_each(|bytes| std::fs::write(&path, bytes).unwrap());
            Sample::new(path, 0)
        };
        let samples =
            [sample("a", Some(b"x")), sample("b", Some(b"x")), sample("c", Some(b"y")), sample("d", None)];
        let hashes = pictures(&samples);
        assert!(hashes[0] == hashes[1] && hashes[0] != hashes[2] && hashes[2] != hashes[3]);
    }
}
