use super::super::testing::{assert_same_on_any_threads, normals};
use super::*;

fn dropped(isa: Isa, settings: &Dropout<'_>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    dropout(isa, settings, x, &mut y);
    y
}

#[test]
fn keeps_the_right_share_and_scales_it() {
    let x = vec![1.0f32; 200_000];
    for isa in Isa::available() {
        for p in [0.0, 0.2, 0.5, 0.9, 1.0] {
            let y = dropped(isa, &Dropout { keys: &[5, 6], layer: 1, p }, &x);
            let kept = y.iter().filter(|&&y| y != 0.0).count() as f32 / y.len() as f32;
            assert!((kept - (1.0 - p)).abs() < 0.005, "{isa} {p}: {kept}");
            assert!(y.iter().all(|&y| y == 0.0 || y == 1.0 / (1.0 - p)), "{isa} {p}");
        }
    }
}

#[test]
fn a_mask_belongs_to_its_key_and_layer() {
    let width = 1281;
    let x = normals(1, width);
    let twice = [x.clone(), x.clone()].concat();
    for isa in Isa::available() {
        let alone = dropped(isa, &Dropout { keys: &[77], layer: 3, p: 0.4 }, &x);
        let second = dropped(isa, &Dropout { keys: &[-5, 77], layer: 3, p: 0.4 }, &twice);
        assert_eq!(second[width..], alone, "{isa}: the row's place changed its mask");
        assert_ne!(second[..width], alone, "{isa}: two keys share a mask");
        assert_ne!(
            dropped(isa, &Dropout { keys: &[77], layer: 4, p: 0.4 }, &x),
            alone,
            "{isa}: layers share"
        );
        assert_eq!(alone, dropped(Isa::PORTABLE, &Dropout { keys: &[77], layer: 3, p: 0.4 }, &x), "{isa}");
    }
}

#[test]
fn neighbours_are_independent() {
    let x = vec![1.0f32; 100_000];
    let y = dropped(Isa::best(), &Dropout { keys: &[9], layer: 0, p: 0.5 }, &x);
    let both = y.windows(2).filter(|pair| pair[0] != 0.0 && pair[1] != 0.0).count();
    assert!((both as f64 / y.len() as f64 - 0.25).abs() < 0.01, "{both}");
}

#[test]
fn threads_do_not_change_a_bit() {
    let x = normals(2, 3 * 50_001);
    assert_same_on_any_threads("dropout", || {
        dropped(Isa::best(), &Dropout { keys: &[1, 2, 3], layer: 0, p: 0.3 }, &x)
    });
}
