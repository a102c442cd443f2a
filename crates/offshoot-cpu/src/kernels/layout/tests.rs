use super::super::testing::{assert_same_on_any_threads, normals};
use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_element_moves_to_its_place(batch in 1usize..3, rows in 1usize..70, columns in 1usize..70) {
        let x = normals(1, batch * rows * columns);
        let mut y = vec![f32::NAN; x.len()];
        transpose(batch, rows, columns, &x, &mut y);
        for (i, &y) in y.iter().enumerate() {
            let (n, rest) = (i / (rows * columns), i % (rows * columns));
            let (column, row) = (rest / rows, rest % rows);
            prop_assert_eq!(y, x[(n * rows + row) * columns + column]);
        }
    }
}

#[test]
fn there_and_back_again() {
    let (batch, channels, pixels) = (2, 3, 224 * 224);
    let x = normals(1, batch * channels * pixels);
    let (mut nhwc, mut back) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    nchw_to_nhwc(batch, channels, pixels, &x, &mut nhwc);
    nhwc_to_nchw(batch, channels, pixels, &nhwc, &mut back);
    assert_eq!(nhwc[..3], [x[0], x[pixels], x[2 * pixels]]);
    assert_eq!(back, x);
    assert_same_on_any_threads("transpose", || {
        let mut y = vec![0.0; x.len()];
        nchw_to_nhwc(batch, channels, pixels, &x, &mut y);
        y
    });
}
