//! The page: HTML around what the other modules draw.

use std::fmt::Write as _;

use offshoot_graph::text;

/// Text in HTML, between tags or in an attribute in quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push(letter),
            // HTML has no control characters.
            other => out.push_str(&text::escaped(other.encode_utf8(&mut [0; 4]))),
        }
    }
    out
}

/// A name from a file, in HTML: it does not change the direction of the text around it. One of plain letters cannot.
pub(super) fn isolated(name: &str) -> String {
    match name.chars().all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c)) {
        true => escaped(name),
        false => format!("<bdi>{}</bdi>", escaped(name)),
    }
}

/// A part of the page under a heading. Nothing where there is no content.
pub(super) fn section(title: &str, content: &str) -> String {
    match content.is_empty() {
        true => String::new(),
        false => format!("<section><h2>{}</h2>{content}</section>", escaped(title)),
    }
}

/// Characters of a table that fit beside each other on the screen of a phone.
const NARROW: usize = 46;
/// What is said above a table that is wider than that.
const HINT: &str = "<p class=\"hint\">Scroll the table sideways \u{2192}</p>";

/// A part that can be scrolled sideways, `width` characters wide.
pub(super) fn wide(content: &str, width: usize) -> String {
    let hint = if width > NARROW { HINT } else { "" };
    format!("{hint}<div class=\"scroll\" tabindex=\"0\">{content}</div>")
}

/// Rows of a table that are shown: no more can be read, and a page of all of them could not be opened.
pub(super) const MOST_ROWS: usize = 1000;

/// A table. Cells are text; the first `left` columns stand at the left, the others are numbers.
pub(super) fn table(columns: &[&str], rows: &[Vec<String>], left: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let more = rows.len().saturating_sub(MOST_ROWS);
    let rows = &rows[..rows.len() - more];
    let width = |column: usize| {
        // Heads break at spaces.
        let head = columns[column].split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(head) + 2
    };
    let width: usize = (0..columns.len()).map(width).sum();
    let class = |column: usize| if column < left { "" } else { " class=\"n\"" };
    let mut html = String::from("<table><thead><tr>");
    for (i, column) in columns.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", class(i), escaped(column));
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        html += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let cell = if i < left { isolated(cell) } else { escaped(cell) };
            let _ = write!(html, "<td{}>{cell}</td>", class(i));
        }
        html += "</tr>";
    }
    let html = wide(&(html + "</tbody></table>"), width);
    if more == 0 { html } else { format!("{html}<p>{more} more rows are not shown.</p>") }
}

/// Names and what they are, in lines that break.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let mut html = String::from("<dl>");
    for (name, value) in facts {
        let _ = write!(html, "<dt>{}</dt><dd>{}</dd>", escaped(name), isolated(value));
    }
    html + "</dl>"
}

/// Figures with a label on each.
pub(super) fn cards(cards: &[(&str, String)]) -> String {
    let mut html = String::from("<div class=\"cards\">");
    for (name, value) in cards {
        let _ = write!(html, "<div><b>{}</b><span>{}</span></div>", escaped(value), escaped(name));
    }
    html + "</div>"
}

/// What every page of ours begins with.
pub(super) const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">";

/// The whole page. `body` is HTML, `title` is text.
pub(super) fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "{HEAD}<title>{title}</title><style>{STYLE}</style></head><body><main><h1><bdi>{title}</bdi></h1>{body}</main></body></html>\n"
    )
}

const STYLE: &str = "\
:root{--paper:#fff;--back:#f4f5f7;--ink:#1d2530;--soft:#667085;--line:#e3e6eb;--bad:#dc2626;--good:#15803d;--shade:rgba(16,24,40,.22);\
--c0:#2563eb;--c1:#ea580c;--c2:#16a34a;--c3:#9333ea;--c4:#0891b2;--c5:#ca8a04}\
@media(prefers-color-scheme:dark){:root{--paper:#171b22;--back:#0e1116;--ink:#e6e9ee;--soft:#98a2b3;--line:#2b313b;\
--bad:#f87171;--good:#4ade80;--shade:rgba(255,255,255,.22);--c0:#6ea0ff;--c1:#fb923c;--c2:#4ade80;--c3:#c084fc;--c4:#22d3ee;--c5:#facc15}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",\"Noto Sans CJK SC\",sans-serif}\
main{max-width:1080px;margin:0 auto;padding:24px 16px 64px}h1{font-size:24px;margin:8px 0 16px;overflow-wrap:anywhere}\
h2{font-size:17px;margin:0 0 12px}h3{font-size:14px;margin:16px 0 8px;color:var(--soft);font-weight:600}\
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0}\
p{margin:0 0 12px;color:var(--soft)}\
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px}\
.cards div{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:12px}\
.cards b{display:block;font-size:20px;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}\
.cards+p{margin-top:14px}.legend+.hint,.charts+.hint{margin-top:12px}.cards span{color:var(--soft);font-size:13px}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:16px}\
figure{margin:0}.charts+.scroll,.charts+.hint+.scroll{margin-top:14px}.charts figure{max-width:560px}figcaption{font-size:14px;font-weight:600;color:var(--soft);margin-bottom:4px}\
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}\
.ideal{stroke:var(--soft);stroke-dasharray:5 4}circle{fill-opacity:.85}\
.grid{stroke:var(--line)}polyline{fill:none;stroke-width:2;stroke-linejoin:round}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}\
.f0,.k0{fill:var(--c0);background:var(--c0)}.f1,.k1{fill:var(--c1);background:var(--c1)}\
.f2,.k2{fill:var(--c2);background:var(--c2)}.f3,.k3{fill:var(--c3);background:var(--c3)}\
.f4,.k4{fill:var(--c4);background:var(--c4)}.f5,.k5{fill:var(--c5);background:var(--c5)}\
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:13px;color:var(--soft)}\
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}\
.scroll{overflow-x:auto;background:linear-gradient(to right,var(--paper) 40%,transparent),\
linear-gradient(to left,var(--paper) 40%,transparent) 100% 0,linear-gradient(to right,var(--shade),transparent),\
linear-gradient(to left,var(--shade),transparent) 100% 0;background-repeat:no-repeat;\
background-size:48px 100%,48px 100%,16px 100%,16px 100%;background-attachment:local,local,scroll,scroll}\
.hint{display:none;font-size:13px;margin:0 0 6px}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:6px 16px;margin:0;font-size:14px}dt{color:var(--soft)}\
dd{margin:0;overflow-wrap:anywhere}ul{margin:0;padding-left:20px}li{margin:0 0 6px;overflow-wrap:anywhere}li small{color:var(--soft)}\
table{border-collapse:collapse;width:100%;font-size:14px}\
th,td{padding:6px 10px;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--soft);font-weight:600;white-space:normal;vertical-align:bottom}.n{text-align:right;font-variant-numeric:tabular-nums}\
.confusion{width:auto}.confusion td{text-align:center;min-width:44px;border:1px solid var(--line);\
font-variant-numeric:tabular-nums}.confusion th{border:0}.confusion thead th{text-align:center}\
.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:14px}\
.worst figure{font-size:13px;overflow-wrap:anywhere}.worst img{width:100%;height:auto;aspect-ratio:1;border-radius:8px;display:block;\
border:1px solid var(--line)}.worst b{color:var(--bad)}.worst i{color:var(--good);font-style:normal}.worst small{color:var(--soft);display:block}\
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}\
@media(max-width:480px){main{padding:12px 10px 40px}section{padding:12px}th,td{padding:5px 5px}table{font-size:13px}h1{font-size:20px}\
.hint{display:block}svg text{font-size:15px}.worst{grid-template-columns:repeat(2,1fr)}\
dl{grid-template-columns:1fr;gap:0}dd{margin:0 0 8px}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_text_and_keeps_to_itself() {
        assert_eq!(escaped("<b>&\"'\n\0\u{1b}[2J\u{9b}"), "&lt;b&gt;&amp;&quot;&#39;\n\\x00\\x1b[2J\\u{9b}");
        assert_eq!(isolated("\u{202e}=1"), "<bdi>\\u{202e}=1</bdi>");
        assert_eq!(isolated("plain-name_1"), "plain-name_1");
    }
}
