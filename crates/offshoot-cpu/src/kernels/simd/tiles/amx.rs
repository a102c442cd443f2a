//! The matrix unit of x86-64. Stable Rust has no intrinsics for it, but its assembler knows the instructions.

use std::arch::asm;
use std::cell::Cell;
use std::mem::offset_of;
use std::sync::OnceLock;

use super::{Factors, Product, ROWS, STEP};

/// Columns of a tile of sums.
const COLUMNS: usize = 16;

/// Whether the processor has tiles with products of bytes and of bf16, and the system lets this process use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_allows_tiles())
}

/// Asks the processor for AMX-TILE, AMX-INT8 and AMX-BF16, and whether the system saves tiles when it changes threads.
fn processor_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const XSAVE_AND_OSXSAVE: u32 = 3 << 26;
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const TILE_STATES: u64 = 3 << 17;
    #[allow(unused_unsafe)] // newer compilers call these safe
    // Safety: every processor of this architecture has `cpuid`.
    let (largest, first, seventh) = unsafe { (__cpuid(0).eax, __cpuid(1).ecx, __cpuid_count(7, 0).edx) };
    if largest < 7
        || first & XSAVE_AND_OSXSAVE != XSAVE_AND_OSXSAVE
        || seventh & BF16_TILE_INT8 != BF16_TILE_INT8
    {
        return false;
    }
    let (low, high): (u32, u32);
    // Safety: the system has switched on `xgetbv` (OSXSAVE); register 0 exists then.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    (u64::from(high) << 32 | u64::from(low)) & TILE_STATES == TILE_STATES
}

/// Asks Linux for the permission to use tiles, which is the process's from then on.
#[cfg(target_os = "linux")]
fn system_allows_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let failed: i64;
    // Safety: the call changes nothing but the permission; a system that does not know it, or refuses, returns an error.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => failed,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    failed == 0
}

#[cfg(not(target_os = "linux"))]
fn system_allows_tiles() -> bool {
    false
}

/// A block of assembly: loads the sums or starts from zeros, adds the products of all steps, and stores the sums.
macro_rules! block {
    ($product:expr, [$($zero:literal)*], [$($sums:literal)*], [$($step:expr),*], [$($store:literal)*]) => {
        asm!(
            $($zero,)*
            "mov {a}, [{p} + {start}]",
            "test {a}, {a}",
            "jz 4f",
            "mov {row}, [{p} + {start_row}]",
            "mov {second}, {row}",
            "shl {second}, 4",
            "add {second}, {a}",
            $($sums,)*
            "4:",
            "mov {a}, [{p} + {left}]",
            "mov {row}, [{p} + {left_row}]",
            "mov {second}, {row}",
            "shl {second}, 4",
            "add {second}, {a}",
            "mov {b}, [{p} + {right}]",
            "mov {parts}, [{p} + {part_count}]",
            "3:",
            "mov {n}, [{p} + {step_count}]",
            "2:",
            $($step,)*
            "add {a}, 64",
            "add {second}, 64",
            "dec {n}",
            "jnz 2b",
            "add {a}, [{p} + {gap}]",
            "add {second}, [{p} + {gap}]",
            "dec {parts}",
            "jnz 3b",
            "mov {a}, [{p} + {out}]",
            "mov {row}, [{p} + {out_row}]",
            "mov {second}, {row}",
            "shl {second}, 4",
            "add {second}, {a}",
            $($store,)*
            p = in(reg) $product,
            a = out(reg) _, second = out(reg) _, row = out(reg) _, b = out(reg) _, parts = out(reg) _, n = out(reg) _,
            width = in(reg) $product.b_row,
            start = const offset_of!(Product, start), start_row = const offset_of!(Product, start_row),
            left = const offset_of!(Product, a), left_row = const offset_of!(Product, a_row),
            right = const offset_of!(Product, b), gap = const offset_of!(Product, gap),
            part_count = const offset_of!(Product, parts), step_count = const offset_of!(Product, steps),
            out = const offset_of!(Product, out), out_row = const offset_of!(Product, out_row),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The block for each number of tiles.
macro_rules! blocks {
    ($product:expr, $dot:literal) => {
        match ($product.rows > ROWS, $product.columns > COLUMNS) {
            (true, true) => block!(
                $product,
                ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
                ["tileloadd tmm0, [{a} + {row}*1]" "tileloadd tmm1, [{a} + {row}*1 + 64]"
                 "tileloadd tmm2, [{second} + {row}*1]" "tileloadd tmm3, [{second} + {row}*1 + 64]"],
                ["tileloadd tmm6, [{b} + {width}*1]", "tileloadd tmm4, [{a} + {row}*1]",
                 concat!($dot, " tmm0, tmm4, tmm6"), "tileloadd tmm7, [{b} + {width}*1 + 64]",
                 concat!($dot, " tmm1, tmm4, tmm7"), "tileloadd tmm5, [{second} + {row}*1]",
                 concat!($dot, " tmm2, tmm5, tmm6"), concat!($dot, " tmm3, tmm5, tmm7"), "lea {b}, [{b} + {width}*8]", "lea {b}, [{b} + {width}*8]"],
                ["tilestored [{a} + {row}*1], tmm0" "tilestored [{a} + {row}*1 + 64], tmm1"
                 "tilestored [{second} + {row}*1], tmm2" "tilestored [{second} + {row}*1 + 64], tmm3"]
            ),
            (true, false) => block!(
                $product,
                ["tilezero tmm0" "tilezero tmm2"],
                ["tileloadd tmm0, [{a} + {row}*1]" "tileloadd tmm2, [{second} + {row}*1]"],
                ["tileloadd tmm6, [{b} + {width}*1]", "tileloadd tmm4, [{a} + {row}*1]",
                 concat!($dot, " tmm0, tmm4, tmm6"), "tileloadd tmm5, [{second} + {row}*1]",
                 concat!($dot, " tmm2, tmm5, tmm6"), "lea {b}, [{b} + {width}*8]", "lea {b}, [{b} + {width}*8]"],
                ["tilestored [{a} + {row}*1], tmm0" "tilestored [{second} + {row}*1], tmm2"]
            ),
            (false, true) => block!(
                $product,
                ["tilezero tmm0" "tilezero tmm1"],
                ["tileloadd tmm0, [{a} + {row}*1]" "tileloadd tmm1, [{a} + {row}*1 + 64]"],
                ["tileloadd tmm6, [{b} + {width}*1]", "tileloadd tmm4, [{a} + {row}*1]",
                 concat!($dot, " tmm0, tmm4, tmm6"), "tileloadd tmm7, [{b} + {width}*1 + 64]",
                 concat!($dot, " tmm1, tmm4, tmm7"), "lea {b}, [{b} + {width}*8]", "lea {b}, [{b} + {width}*8]"],
                ["tilestored [{a} + {row}*1], tmm0" "tilestored [{a} + {row}*1 + 64], tmm1"]
            ),
            (false, false) => block!(
                $product,
                ["tilezero tmm0"],
                ["tileloadd tmm0, [{a} + {row}*1]"],
                ["tileloadd tmm6, [{b} + {width}*1]", "tileloadd tmm4, [{a} + {row}*1]",
                 concat!($dot, " tmm0, tmm4, tmm6"), "lea {b}, [{b} + {width}*8]", "lea {b}, [{b} + {width}*8]"],
                ["tilestored [{a} + {row}*1], tmm0"]
            ),
        }
    };
}

/// [`multiply`](super::multiply) on the unit.
///
/// # Safety
/// As there; there is at least one step.
#[inline]
pub(super) unsafe fn multiply(factors: Factors, product: &Product) {
    // Safety: the caller's; the tiles have been given the sizes of the product.
    unsafe {
        set_rows(product.rows);
        match factors {
            Factors::Bytes => blocks!(product, "tdpbusd"),
            Factors::Bf16 => blocks!(product, "tdpbf16ps"),
        }
    }
}

thread_local! {
    /// Rows of the tiles of the first and the second row block; none where the thread has no tiles.
    static SIZES: Cell<[u8; 2]> = const { Cell::new([0; 2]) };
}

/// Gives this thread tiles for left operands of so many rows. (It takes as long as a few products of tiles.)
#[inline(always)]
unsafe fn set_rows(rows: usize) {
    let sizes = if rows > ROWS { [ROWS as u8, (rows - ROWS) as u8] } else { [rows as u8, ROWS as u8] };
    if SIZES.get() != sizes {
        // Safety: the caller's.
        unsafe { configure(sizes) };
        SIZES.set(sizes);
    }
}

/// The 64 bytes that `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

#[inline(never)]
unsafe fn configure([first, second]: [u8; 2]) {
    let (all, row) = (ROWS as u8, STEP as u16);
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
    configuration.bytes[..8].fill(row);
    configuration.rows[..8].copy_from_slice(&[first, first, second, second, first, second, all, all]);
    // Safety: the caller's; the configuration is one of palette 1, and no tile has more than 16 rows of 64 bytes.
    unsafe {
        asm!(
            "ldtilecfg [{}]", in(reg) &raw const configuration,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// See [`release`](super::release).
#[inline]
pub(super) fn release() {
    if SIZES.get() != [0; 2] {
        // Safety: the thread has tiles, so that there are some.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
        SIZES.set([0; 2]);
    }
}

/// [`transpose`](super::transpose) by vectors: in each step halves of vectors change places.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(
    (from, from_row): (*const f32, usize),
    count: usize,
    (to, to_row): (*mut f32, usize),
) {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    let mut rows: [__m512i; ROWS] = [_mm512_setzero_si512(); ROWS];
    let mut other = rows;
    // Safety: the caller's.
    unsafe {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(from.add(i * from_row).cast());
        }
        // Within each quarter of the vectors: 4 x 4 units.
        for i in 0..ROWS / 2 {
            other[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            other[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..ROWS / 4 {
            let [a, b, c, d] = [other[4 * i], other[4 * i + 1], other[4 * i + 2], other[4 * i + 3]];
            rows[4 * i] = _mm512_unpacklo_epi64(a, c);
            rows[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
            rows[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
            rows[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
        }
        // Then 4 x 4 quarters.
        for i in 0..4 {
            let [a, b, c, d] = [rows[i], rows[4 + i], rows[8 + i], rows[12 + i]];
            let [ab_even, ab_odd] = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b)];
            let [cd_even, cd_odd] = [_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xDD>(c, d)];
            other[i] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
            other[8 + i] = _mm512_shuffle_i32x4::<0xDD>(ab_even, cd_even);
            other[4 + i] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
            other[12 + i] = _mm512_shuffle_i32x4::<0xDD>(ab_odd, cd_odd);
        }
        for (j, row) in other.iter().take(count).enumerate() {
            _mm512_storeu_si512(to.add(j * to_row).cast(), *row);
        }
    }
}
