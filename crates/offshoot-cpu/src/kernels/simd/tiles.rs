//! Tiles: registers of up to 16 rows of 64 bytes, and instructions that multiply them (AMX, the matrix unit of x86-64).
//!
//! What is in such a register never outlives a call of [`multiply`]; only the sizes of tiles do, which belong to a thread until it calls
//! [`release`]. Where there is no such unit, [`multiply`] computes the same in plain Rust: that is for tests.

#[cfg(target_arch = "x86_64")]
mod amx;

use half::bf16;

use super::Isa;

/// Rows of a tile, and columns of one of sums.
pub(in crate::kernels) const ROWS: usize = 16;

/// Bytes of a row of a tile: elements of the reduction, or columns of sums.
pub(in crate::kernels) const STEP: usize = 64;

/// Rows of the left operand of which [`multiply`] takes at most so many.
pub(in crate::kernels) const MOST_ROWS: usize = 2 * ROWS;

/// Whether the processor has tiles with products of bytes and of bf16, and the system lets this process use them.
pub(super) fn are_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A product of up to [`MOST_ROWS`] rows and two tiles of columns, of 16 each.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Product {
    /// The left operand, [`STEP`] bytes of a row after one another.
    pub(in crate::kernels) a: *const u8,
    /// Bytes from one row to the next.
    pub(in crate::kernels) a_row: usize,
    /// Parts of the reduction, and steps of each.
    pub(in crate::kernels) parts: usize,
    pub(in crate::kernels) steps: usize,
    /// Bytes of a row from the end of a part to the start of the next.
    pub(in crate::kernels) gap: isize,
    /// The right operand: 16 rows for each step, of four bytes of the reduction for each column.
    pub(in crate::kernels) b: *const u8,
    /// Bytes from one row to the next.
    pub(in crate::kernels) b_row: usize,
    /// What the sums start from: rows of as many columns of 32 bits, or null for zeros.
    pub(in crate::kernels) start: *const u8,
    /// Bytes from one row of these to the next; may be 0.
    pub(in crate::kernels) start_row: usize,
    /// Where the sums go, which may be where they started.
    pub(in crate::kernels) out: *mut u8,
    /// Bytes from one row to the next.
    pub(in crate::kernels) out_row: usize,
    /// Rows: 1 to [`MOST_ROWS`].
    pub(in crate::kernels) rows: usize,
    /// Columns: 16 or 32, and 8 where products are emulated.
    pub(in crate::kernels) columns: usize,
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) enum Factors {
    /// Unsigned bytes with signed ones, four in 32 bits; sums are integers.
    Bytes,
    /// bf16, two in 32 bits; sums are f32.
    Bf16,
}

/// out = start + the product, each sum in order of the reduction.
///
/// # Safety
/// The pointers are valid for what [`Product`] says of them, and tiles [are available](are_available), unless the path that asks
/// emulates them. The thread calls [`release`] afterwards.
#[inline]
pub(in crate::kernels) unsafe fn multiply(emulated: bool, factors: Factors, product: &Product) {
    debug_assert!((1..=MOST_ROWS).contains(&product.rows));
    // Safety: the caller's.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if !emulated && product.parts * product.steps > 0 {
            return amx::multiply(factors, product);
        }
        let _ = emulated;
        emulate(factors, product);
    }
}

/// Gives this thread's tiles back, if it has some: a thread without them is cheaper to switch to.
#[inline]
pub(in crate::kernels) fn release() {
    #[cfg(target_arch = "x86_64")]
    amx::release();
}

/// Transposes 16 rows of `count` <= 16 units of 32 bits: `to` gets `count` rows of 16.
///
/// # Safety
/// Whole rows of 16 units are readable and, in `count` rows, writable. Where `isa` has tiles that are not emulated, it has AVX-512.
#[inline(always)]
pub(in crate::kernels) unsafe fn transpose(
    isa: Isa,
    (from, from_row): (*const f32, usize),
    count: usize,
    (to, to_row): (*mut f32, usize),
) {
    // Safety: the caller's.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if !isa.emulates_tiles() {
            return amx::transpose((from, from_row), count, (to, to_row));
        }
        let _ = isa;
        for i in 0..ROWS {
            for j in 0..count {
                to.add(j * to_row + i).write(from.add(i * from_row + j).read());
            }
        }
    }
}

/// [`multiply`] in plain Rust.
unsafe fn emulate(factors: Factors, product: &Product) {
    let Product { parts, steps, columns, .. } = *product;
    let rows = ROWS * steps;
    for i in 0..product.rows {
        for column in 0..columns {
            // Safety: the caller's.
            unsafe {
                let start = match product.start.is_null() {
                    true => [0; 4],
                    false => {
                        let row = product.start.add(i * product.start_row).cast::<[u8; 4]>();
                        row.add(column).read_unaligned()
                    }
                };
                let mut sum = Sum::new(factors, start);
                let mut a = product.a.add(i * product.a_row);
                for part in 0..parts {
                    for row in 0..rows {
                        let b = product.b.add((part * rows + row) * product.b_row);
                        let b = b.cast::<[u8; 4]>().add(column);
                        sum.add(a.cast::<[u8; 4]>().read_unaligned(), b.read_unaligned());
                        a = a.add(4);
                    }
                    a = a.wrapping_offset(product.gap);
                }
                product
                    .out
                    .add(i * product.out_row)
                    .cast::<[u8; 4]>()
                    .add(column)
                    .write_unaligned(sum.bytes());
            }
        }
    }
}

/// A sum that is being emulated.
enum Sum {
    Integer(i32),
    Float(f32),
}

impl Sum {
    fn new(factors: Factors, start: [u8; 4]) -> Sum {
        match factors {
            Factors::Bytes => Sum::Integer(i32::from_le_bytes(start)),
            Factors::Bf16 => Sum::Float(f32::from_le_bytes(start)),
        }
    }

    /// Adds the products of four bytes, or of two bf16.
    fn add(&mut self, a: [u8; 4], b: [u8; 4]) {
        match self {
            Sum::Integer(sum) => {
                let products = a.iter().zip(b).map(|(&a, b)| i32::from(a) * i32::from(b.cast_signed()));
                *sum = sum.wrapping_add(products.sum());
            }
            Sum::Float(sum) => {
                let pair = |x: [u8; 4]| [[x[0], x[1]], [x[2], x[3]]].map(|x| bf16::from_le_bytes(x).to_f32());
                let ([a0, a1], [b0, b1]) = (pair(a), pair(b));
                *sum = a1.mul_add(b1, a0.mul_add(b0, *sum));
            }
        }
    }

    fn bytes(&self) -> [u8; 4] {
        match self {
            Sum::Integer(sum) => sum.to_le_bytes(),
            Sum::Float(sum) => sum.to_le_bytes(),
        }
    }
}
