//! The Chinese pages keep to full-width punctuation and to one term for each concept.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that the pages do not use, and the term in their place.
const TERMS: [(&str, &str); 22] = [
    ("训练目录", "运行目录 (run directory)"),
    ("批量", "批大小 (batch size)"),
    ("批尺寸", "批大小 (batch size)"),
    ("比例", "缩放系数 (scale)"),
    ("放缩", "缩放 (scaling)"),
    ("骨干", "主干 (backbone)"),
    ("头部", "分类头 (head)"),
    ("个 epoch", "轮 (epoch)"),
    ("轮次", "轮 or 轮数 (epoch)"),
    ("学习速率", "学习率 (learning rate)"),
    ("批标准化", "批归一化 (batch norm)"),
    ("批规范化", "批归一化 (batch norm)"),
    ("线性探测", "线性探针 (linear probe)"),
    ("定点化", "量化 (quantization)"),
    ("操作集", "算子集 (opset)"),
    ("操作符", "算子 (operator)"),
    ("零点值", "零点 (zero point)"),
    ("校正图片", "校准图片 (calibration pictures)"),
    ("存档点", "检查点 (checkpoint)"),
    ("置信率", "置信度 (confidence)"),
    ("撒谎", "损坏或伪造 (damaged or forged)"),
    ("得到它的名字", "以正式文件名保存 (is saved under its name)"),
];

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = fs::read_dir(root.join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    let chinese = guide.filter(|path| path.to_str().unwrap().ends_with(".zh.md"));
    let pages: Vec<PathBuf> = chinese.chain([root.join("README.zh.md")]).collect();
    assert!(pages.len() > 5, "{pages:?}");
    pages
}

/// The prose of a page, a line each with its number: no blocks, no comments, and of code spans and of the targets of links only a `\0`.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut block = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            block = !block;
        }
        if block || line.starts_with("```") || line.starts_with("<!--") {
            continue;
        }
        let parts = line.split('`').enumerate();
        let mut line: String = parts.map(|(i, part)| if i % 2 == 0 { part } else { "\0" }).collect();
        while let Some(start) = line.find("](") {
            let end = line[start..].find(')').map_or(line.len(), |end| start + end + 1);
            line.replace_range(start..end, "\0");
        }
        lines.push((number + 1, line));
    }
    lines
}

fn chinese(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}' | '\u{3001}'..='\u{3011}' | '\u{ff00}'..='\u{ff60}')
}

/// The places of half-width marks in Chinese text: beside a Chinese letter, code and emphasis aside.
fn half_width(line: &str) -> Vec<String> {
    let letters: Vec<char> = line.chars().collect();
    let beside = |place: usize, step: isize| {
        let mut at = place as isize + step;
        while let Some(&c) = usize::try_from(at).ok().and_then(|at| letters.get(at)) {
            match c {
                '\0' | '*' | '"' | '\'' => at += step,
                c => return Some(c),
            }
        }
        None
    };
    let marks = letters.iter().enumerate().filter(|(_, c)| ",;:?!()\"'".contains(**c));
    let wrong =
        marks.filter(|&(place, _)| [-1, 1].into_iter().any(|step| beside(place, step).is_some_and(chinese)));
    wrong
        .map(|(place, c)| {
            format!("`{c}` after {}", letters[place.saturating_sub(8)..place].iter().collect::<String>())
        })
        .collect()
}

#[test]
fn punctuation_is_full_width() {
    for page in pages() {
        for (number, line) in prose(&fs::read_to_string(&page).unwrap()) {
            let wrong = half_width(&line);
            assert!(wrong.is_empty(), "{}:{number}: {wrong:?}", page.display());
        }
    }
}

#[test]
fn each_concept_has_one_term() {
    for page in pages() {
        for (number, line) in prose(&fs::read_to_string(&page).unwrap()) {
            for (word, term) in TERMS {
                assert!(!line.contains(word), "{}:{number}: {word}; the term is {term}", page.display());
            }
        }
    }
}

#[test]
fn half_width_marks_are_found_in_chinese_and_left_alone_elsewhere() {
    for bad in ["模型,数据", "**模型**(model)", "模型:\0", "\0,数据", "说\"好\"", "文件;"] {
        assert!(!half_width(bad).is_empty(), "{bad}");
    }
    for good in ["模型，数据", "\0、\0（默认）", "a, b (c): d", "1,000 张", "模型 1e-4, 1e-3", "“好”"]
    {
        assert!(half_width(good).is_empty(), "{good}");
    }
    assert_eq!(prose("a\n```text\n模型,\n```\n[文](x,y) `模,型`"), [(1, "a".into()), (5, "[文\0 \0".into())]);
}
