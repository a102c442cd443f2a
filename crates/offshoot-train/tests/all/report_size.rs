//! The report of a run with very many classes, groups of parameters and warnings.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;

use offshoot_train::report::write;

const MANY: usize = 50_000;

#[test]
fn a_page_lists_no_more_than_can_be_read() {
    let run = tempfile::tempdir().unwrap();
    let file = |name: &str, head: &str, line: &dyn Fn(usize) -> String| {
        let mut text = format!("{head}\n");
        (0..MANY).for_each(|i| writeln!(text, "{}", line(i)).unwrap());
        fs::write(run.path().join(name), text).unwrap();
    };
    fs::write(run.path().join("results.csv"), "epoch,train_loss,val_accuracy,seconds\n1,0.5,0.5,1\n")
        .unwrap();
    file("health.csv", "epoch,group,weight_norm,gradient_norm", &|i| format!("1,layer{i},1.5,0.5"));
    file("groups.csv", "stage,after_epoch,group,parameters,trainable,learning_rate,weight_decay", &|i| {
        format!("1,0,layer{i},10,true,0.1,0")
    });
    file("pictures.csv", "set,class,path", &|i| format!("train,class{i},{i}.png"));
    file("log.csv", "time,kind,text", &|i| format!("2026-11-28T09:34:45Z,warning,warning {i}"));
    // A table of classes by classes would take 20 GB.
    let classes: Vec<String> = (0..MANY).map(|i| format!("class{i}")).collect();
    fs::write(run.path().join("predictions.csv"), format!("path,class,{}\n", classes.join(","))).unwrap();
    write(run.path(), "cpu").unwrap();
    let page = fs::read_to_string(run.path().join("report.html")).unwrap();
    assert!(page.len() < 2_000_000, "{}", page.len());
    for (part, times) in [
        // Groups of parameters, classes.
        ("49000 more rows are not shown.", 2),
        // Classes with their pictures, and the row of all.
        ("49001 more rows are not shown.", 1),
        ("and 49900 more, not drawn", 2),
        ("49900 more warnings, in log.csv", 1),
        ("<b>50000</b><span>classes</span>", 1),
    ] {
        assert_eq!(page.matches(part).count(), times, "{part}");
    }
}

#[test]
fn the_row_of_all_classes_is_shown_beside_any_number_of_them() {
    let run = tempfile::tempdir().unwrap();
    fs::write(run.path().join("results.csv"), "epoch\n1\n").unwrap();
    let rows: String = (0..2000).map(|i| format!("val,class{i},{i}.png\n")).collect();
    fs::write(run.path().join("pictures.csv"), format!("set,class,path\n{rows}")).unwrap();
    write(run.path(), "cpu").unwrap();
    let page = fs::read_to_string(run.path().join("report.html")).unwrap();
    assert!(page.contains("all classes</td>"), "the total is lost");
}
