//! The bits of a scan, and the Huffman codes in them.

/// Bits that are looked up at once: longer codes are rare.
const LOOK: u32 = 10;

/// An entry of [`Codes::look`] that is a whole coefficient: its code and value fit into [`LOOK`] bits.
const WHOLE: u32 = 1 << 15;

/// Reads the data of a scan bit by bit, up to the next marker.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next byte to load.
    at: usize,
    /// The next bits, from the highest on. Below `count` of them may be bits that are loaded again.
    buffer: u64,
    count: u32,
    /// Zero bits that stand for what is behind the end.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Bits<'a> {
        Bits { data, at, buffer: 0, count: 0, missing: 0 }
    }

    /// Whether no bit was taken that is not there.
    pub(super) fn sound(&self) -> bool {
        self.missing <= self.count
    }

    /// The place of the marker that ends these data.
    pub(super) fn marker(&self) -> Option<usize> {
        let rest = self.data.get(self.at..)?;
        let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF);
        rest.windows(2).position(is_marker).map(|place| self.at + place)
    }

    /// Goes on behind the restart marker of this number.
    pub(super) fn restart(&mut self, number: u8) -> Option<()> {
        let place = self.marker().filter(|_| self.sound())?;
        if self.data[place + 1] != 0xD0 + number {
            return None;
        }
        *self = Bits::new(self.data, place + 2);
        Some(())
    }

    /// At least 32 bits are in the buffer afterwards: a code of 16 and a value of 16.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(chunk) = self.data.get(self.at..).and_then(|rest| rest.first_chunk()) {
            let word = u64::from_be_bytes(*chunk);
            if !has_ff(word) {
                self.buffer |= word >> self.count;
                self.at += ((63 - self.count) / 8) as usize;
                self.count |= 56;
                return;
            }
        }
        self.fill_slowly();
    }

    #[cold]
    #[inline(never)]
    fn fill_slowly(&mut self) {
        while self.count <= 56 {
            let byte = match self.data[self.at.min(self.data.len())..] {
                [0xFF, 0, ..] => {
                    self.at += 2;
                    0xFF
                }
                [0xFF, 0xFF, ..] => {
                    self.at += 1;
                    continue;
                }
                [0xFF, ..] | [] => {
                    self.missing += 8;
                    0
                }
                [byte, ..] => {
                    self.at += 1;
                    byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.count -= count;
    }

    /// The next `count` bits, up to 16. The buffer must have them.
    #[inline(always)]
    fn take(&mut self, count: u32) -> u32 {
        let bits = (self.buffer >> 1 >> (63 - count)) as u32;
        self.skip(count);
        bits
    }

    /// The next `count` bits, up to 16.
    #[inline(always)]
    pub(super) fn read(&mut self, count: u32) -> u32 {
        self.fill();
        self.take(count)
    }

    /// The next `count` bits as a value that begins with its sign: 0 is negative. The buffer must have them.
    #[inline(always)]
    fn signed(&mut self, count: u32) -> i32 {
        let negative = !((self.buffer as i64) >> 63) as i32;
        self.take(count) as i32 + (negative & (1 - (1 << count)))
    }

    /// The same of a buffer that may have to be filled.
    #[inline(always)]
    pub(super) fn signed_value(&mut self, count: u32) -> i32 {
        self.fill();
        self.signed(count)
    }

    /// The next symbol.
    #[inline(always)]
    pub(super) fn symbol(&mut self, codes: &Codes) -> Option<u8> {
        self.fill();
        let entry = codes.plain[(self.buffer >> (64 - LOOK)) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8));
            return Some(entry as u8);
        }
        self.long_symbol(codes)
    }

    #[cold]
    fn long_symbol(&mut self, codes: &Codes) -> Option<u8> {
        let code = (self.buffer >> 48) as i32;
        let length = (LOOK + 1..=16).find(|&length| code < codes.ends[length as usize])?;
        self.skip(length);
        let place = codes.places[length as usize] + (code >> (16 - length));
        codes.symbols.get(usize::try_from(place).ok()?).copied()
    }

    /// A difference of DC coefficients.
    #[inline(always)]
    pub(super) fn difference(&mut self, codes: &Codes) -> Option<i32> {
        self.fill();
        let entry = codes.look[(self.buffer >> (64 - LOOK)) as usize];
        if entry & WHOLE != 0 {
            self.skip(entry & 0xFF);
            return (entry & 0xF00 == 0).then_some(entry as i32 >> 16);
        }
        let size = u32::from(self.symbol(codes)?);
        (size <= 16).then(|| self.signed(size))
    }

    /// The AC coefficients of a block, at their places of [`ZIGZAG`]. Returns the last place in zigzag order.
    #[inline(always)]
    pub(super) fn coefficients(&mut self, codes: &Codes, block: &mut [i16; 64]) -> Option<usize> {
        let (mut place, mut last) = (0, 0);
        while place < 63 {
            self.fill();
            let entry = codes.look[(self.buffer >> (64 - LOOK)) as usize];
            let value = if entry & WHOLE != 0 {
                self.skip(entry & 0xFF);
                place += (entry >> 8 & 0xF) as usize;
                (entry as i32 >> 16) as i16
            } else {
                let symbol = self.symbol(codes)?;
                let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 0xF));
                if size == 0 {
                    if run < 15 {
                        break;
                    }
                    place += 16;
                    continue;
                }
                place += run;
                self.signed(size) as i16
            };
            place += 1;
            if place > 63 {
                return None;
            }
            block[usize::from(ZIGZAG[place])] = value;
            last = place;
        }
        Some(last)
    }
}

/// Whether a byte of the word is 0xFF. (It may say so of words in which none is, of 0xFE below 0xFF.)
#[inline(always)]
fn has_ff(word: u64) -> bool {
    (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0
}

/// A Huffman table.
pub(super) struct Codes {
    /// By the next [`LOOK`] bits: the symbol, and above it the length of its code; 0 if that is longer.
    plain: [u16; 1 << LOOK],
    /// The same for coefficients whose value is among these bits: the bits to skip, above them the run of zeros and
    /// [`WHOLE`], above them the value.
    look: [u32; 1 << LOOK],
    /// By length: the first 16 bits that are too high for a code of this length,
    ends: [i32; 17],
    /// and what must be added to a code for its place in `symbols`.
    places: [i32; 17],
    symbols: Vec<u8>,
}

impl Codes {
    /// The table of so many codes of each length from 1 on, in the order of the symbols; `None` for too many.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Codes> {
        let mut codes = Codes {
            plain: [0; 1 << LOOK],
            look: [0; 1 << LOOK],
            ends: [0; 17],
            places: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0i32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            codes.places[length as usize] = place as i32 - code;
            let of_length = symbols.get(place..place + usize::from(count))?;
            if code + i32::from(count) > 1 << length {
                return None;
            }
            if length <= LOOK {
                let width = 1 << (LOOK - length);
                for (n, &symbol) in of_length.iter().enumerate() {
                    let start = (code as usize + n) * width;
                    codes.plain[start..start + width].fill((length as u16) << 8 | u16::from(symbol));
                }
            }
            code += i32::from(count);
            place += of_length.len();
            codes.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        codes.look = std::array::from_fn(|bits| codes.whole(bits as u32));
        Some(codes)
    }

    /// The entry of `look` for these bits; 0 where the value is not among them.
    fn whole(&self, bits: u32) -> u32 {
        let entry = u32::from(self.plain[bits as usize]);
        let (length, run, size) = (entry >> 8, entry >> 4 & 0xF, entry & 0xF);
        if entry == 0 || size == 0 || length + size > LOOK {
            return 0;
        }
        let value = (bits >> (LOOK - length - size) & ((1 << size) - 1)) as i32;
        let value = if value < 1 << (size - 1) { value + 1 - (1 << size) } else { value };
        (value as u32) << 16 | WHOLE | run << 8 | (length + size)
    }
}

/// The place in a block (row times 8 and column) of each coefficient as they are stored.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];
