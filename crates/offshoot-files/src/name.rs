//! Names of files from texts that others chose.

use offshoot_graph::text::is_invisible;

/// More bytes would leave no room for extensions and temporary names: file systems take 255.
const MOST_BYTES: usize = 120;

/// Names that are devices on Windows, with and without an extension.
const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// A name for a file without its extension, made of any text: one name, never a path, that is the same on every file system and
/// is no option of a program. Letters and digits of any script stay, and `-_.+=,@` and spaces inside; everything else
/// becomes `_`. `model` where nothing is left.
pub fn stem(text: &str) -> String {
    let plain: String = text.chars().map(|c| if stays(c) { c } else { '_' }).collect();
    let mut name = plain.trim_start_matches(['.', '-', '+', '=', '@', ' ']);
    name = name.get(..name.floor_char_boundary(MOST_BYTES)).unwrap_or(name);
    name = name.trim_end_matches(['.', ' ']);
    match name {
        "" => "model".to_owned(),
        name if is_device(name) => format!("_{name}"),
        name => name.to_owned(),
    }
}

fn stays(c: char) -> bool {
    match c {
        c if c.is_ascii() => c.is_ascii_alphanumeric() || "-_.+=,@ ".contains(c),
        c => !c.is_control() && !c.is_whitespace() && !is_invisible(c),
    }
}

fn is_device(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default().trim_end();
    let numbered = |device: &str| {
        first.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(device))
            && matches!(first.as_bytes()[3..], [b'0'..=b'9'])
    };
    DEVICES.iter().any(|device| first.eq_ignore_ascii_case(device))
        || NUMBERED_DEVICES.iter().any(|device| numbered(device))
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use super::*;

    #[test]
    fn a_usual_name_stays() {
        for name in ["resnet18", "vit_b_16", "my model 2.1", "a=b,c+d@e", "Äpfel", "花の分類", "_x-"] {
            assert_eq!(stem(name), name);
        }
    }

    #[test]
    fn any_text_makes_one_plain_name() {
        let long = "名".repeat(300);
        let cases = [
            ("../../up", "_.._up"),
            ("/etc/passwd", "_etc_passwd"),
            ("C:\\x\\y", "C__x_y"),
            ("\\\\host\\share", "__host_share"),
            ("..", "model"),
            (".", "model"),
            ("", "model"),
            (" .- ", "model"),
            ("-rf", "rf"),
            (".hidden", "hidden"),
            ("x';touch y;'\n$(id)", "x__touch y_____id_"),
            ("a\0b\u{1b}[2J\u{202e}", "a_b__2J_"),
            ("a\u{feff}\u{3164}b\u{200d}", "a__b_"),
            ("a?*<>|\":", "a_______"),
            ("NUL", "_NUL"),
            ("nul.txt", "_nul.txt"),
            ("com1", "_com1"),
            ("Com", "Com"),
            ("name. ", "name"),
        ];
        for (text, name) in cases.into_iter().chain([(&*long, &*"名".repeat(40))]) {
            assert_eq!(stem(text), name, "{text:?}");
            assert_eq!(stem(name), name, "it is its own name");
            let parts: Vec<Component<'_>> = Path::new(name).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "{name:?}");
        }
    }
}
